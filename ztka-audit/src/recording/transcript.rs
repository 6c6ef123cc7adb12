//! From the bytes of a stream to the lines of its recording. No I/O, no clock of its own.

use http::HeaderMap;
use jiff::Timestamp;
use ztka_core::{Upgrade, stream::Violation};

use super::{
    Input,
    cast::{Cast, Code, Size, Title, Utf8},
    echo::Echo,
    frames::{Frames, Said},
};

/// Reads both directions of an exec or attach and writes them down as asciicast v3.
///
/// Holds what has been written until it is [taken](Self::take), at most one frame's head and message, and what was typed and
/// not shown yet. Bytes may come in pieces of any size.
#[derive(Debug)]
pub struct Transcript {
    frames: Frames,
    page: Page,
}

#[derive(Debug)]
struct Page {
    cast: Cast,
    title: Title,
    input: Input,
    echo: Echo,
    typed: Utf8,
    output: Utf8,
    errors: Utf8,
    exit: Option<i32>,
}

impl Transcript {
    /// Of a stream over `upgrade` that was answered with the headers `answer`, begun at `start`. `None` if what was agreed on
    /// is neither `v4` nor `v5.channel.k8s.io` nor SPDY/3.1.
    pub fn of(upgrade: Upgrade, answer: &HeaderMap, input: Input, start: Timestamp) -> Option<Self> {
        let frames = Frames::of(upgrade, answer)?;
        let page = Page {
            cast: Cast::new(start),
            title: Title::default(),
            input,
            echo: Echo::default(),
            typed: Utf8::default(),
            output: Utf8::default(),
            errors: Utf8::default(),
            exit: None,
        };
        Some(Self { frames, page })
    }

    /// What the header says.
    #[must_use]
    pub fn titled(mut self, title: String, command: Option<String>) -> Self {
        self.page.title = Title { command, title };
        self
    }

    /// Reads what the client sends.
    ///
    /// # Errors
    /// It is not what was agreed on; what was said before is written down.
    pub fn client(&mut self, bytes: &[u8], now: Timestamp) -> Result<(), Violation> {
        let page = &mut self.page;
        self.frames.client(bytes, |said| page.write(said, now))
    }

    /// Reads what the cluster sends.
    ///
    /// # Errors
    /// It is not what was agreed on; what was said before is written down.
    pub fn server(&mut self, bytes: &[u8], now: Timestamp) -> Result<(), Violation> {
        let page = &mut self.page;
        self.frames.server(bytes, |said| page.write(said, now))
    }

    /// Time has passed: what was typed a second ago and not shown is hidden.
    pub fn pass(&mut self, now: Timestamp) {
        if self.page.input == Input::Echoed {
            self.page.echo.expire(now);
            self.page.typed(now);
        }
    }

    /// Notes something in the recording itself.
    pub fn mark(&mut self, text: &str, now: Timestamp) {
        self.page.event(now, Code::Marker, text);
    }

    /// Nothing follows: writes down what still waits.
    pub fn finish(&mut self, now: Timestamp) {
        self.page.finish(now);
    }

    /// How the command has ended, if it is known.
    pub fn exit(&self) -> Option<i32> {
        self.page.exit
    }

    /// Bytes of lines that are waiting to be taken.
    pub fn waiting(&self) -> usize {
        self.page.cast.waiting()
    }

    /// The lines since the last time, each whole.
    pub fn take(&mut self) -> Vec<u8> {
        self.page.cast.take()
    }
}

impl Page {
    fn write(&mut self, said: Said<'_>, now: Timestamp) {
        match said {
            Said::Resized(size) if !self.cast.has_begun() => self.cast.header(size, &self.title),
            Said::Resized(Size { columns, rows }) => self.event(now, Code::Resize, &format!("{columns}x{rows}")),
            Said::Output(bytes) => self.shown(bytes, now, |page| &mut page.output),
            Said::Errors(bytes) => self.shown(bytes, now, |page| &mut page.errors),
            Said::Input(bytes) => match self.input {
                Input::Off => {}
                Input::Echoed => {
                    let Self { typed, echo, .. } = self;
                    typed.read(bytes, |text| echo.typed(text, now));
                    self.typed(now);
                }
                Input::All => {
                    let mut typed = std::mem::take(&mut self.typed);
                    typed.read(bytes, |text| self.event(now, Code::Input, text));
                    self.typed = typed;
                }
            },
            Said::Exited(code) => {
                self.flush(now);
                self.exit = Some(code);
                self.event(now, Code::Exit, &code.to_string());
            }
            Said::Failed(message) => {
                self.flush(now);
                self.event(now, Code::Marker, &message);
            }
        }
    }

    fn shown(&mut self, bytes: &[u8], now: Timestamp, of: fn(&mut Self) -> &mut Utf8) {
        let mut utf8 = std::mem::take(of(self));
        utf8.read(bytes, |text| {
            if self.input == Input::Echoed {
                self.echo.shown(text, now);
                self.typed(now);
            }
            self.event(now, Code::Output, text);
        });
        *of(self) = utf8;
    }

    /// Writes down what was typed and may be seen.
    fn typed(&mut self, now: Timestamp) {
        if let Some(text) = self.echo.take() {
            self.event(now, Code::Input, &text);
        }
    }

    fn event(&mut self, now: Timestamp, code: Code, data: &str) {
        if !self.cast.has_begun() {
            self.cast.header(Size::DEFAULT, &self.title);
        }
        self.cast.event(now, code, data);
    }

    /// What is incomplete stays so.
    fn flush(&mut self, now: Timestamp) {
        for mut utf8 in [std::mem::take(&mut self.output), std::mem::take(&mut self.errors)] {
            utf8.finish(|text| self.event(now, Code::Output, text));
        }
        self.echo.finish();
        self.typed(now);
    }

    fn finish(&mut self, now: Timestamp) {
        self.flush(now);
        if !self.cast.has_begun() {
            self.cast.header(Size::DEFAULT, &self.title);
        }
    }
}

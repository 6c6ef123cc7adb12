//! tmp
use clap::Args;
#[derive(Args, Debug)]
pub(crate) struct Up {}
impl Up {
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        Ok(())
    }
}

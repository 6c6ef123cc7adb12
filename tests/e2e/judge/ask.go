package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// large is the size of a big body each way.
const large = 32 << 20

// seen is an answer, as far as two ways to the same server have it in common.
type seen struct {
	Status   int                 `json:"status"`
	Headers  map[string][]string `json:"headers"`
	Length   int64               `json:"length"`
	Sum      string              `json:"sum"`
	Trailers map[string]string   `json:"trailers,omitempty"`
	Body     string              `json:"body,omitempty"`
}

type client struct {
	base  string
	http  *http.Client
	dials atomic.Int64
	seen  map[string]seen
}

// ask asks everything and prints what it saw, case by case.
func ask(args []string) error {
	flags := flag.NewFlagSet("ask", flag.ExitOnError)
	base := flags.String("base", "", "URL before /judge")
	name := flags.String("name", "", "name of the server, for TLS and Host")
	ca := flags.String("ca", "", "PEM file")
	cert := flags.String("cert", "", "PEM file, if the server wants one")
	key := flags.String("key", "", "PEM file")
	version := flags.Int("http", 1, "1 or 2")
	if err := flags.Parse(args); err != nil {
		return err
	}
	pem, err := os.ReadFile(*ca)
	if err != nil {
		return err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	config := &tls.Config{RootCAs: roots, ServerName: *name}
	if *cert != "" {
		pair, err := tls.LoadX509KeyPair(*cert, *key)
		if err != nil {
			return err
		}
		config.Certificates = []tls.Certificate{pair}
	}
	c := &client{base: *base, seen: map[string]seen{}}
	dialer := &net.Dialer{}
	protocols := new(http.Protocols)
	protocols.SetHTTP1(*version == 1)
	protocols.SetHTTP2(*version == 2)
	// By HTTP/1.1 whoever is expected to say 100 has to. By HTTP/2 hyper's servers say none, and Go sends after its usual
	// second (RFC 9110, section 10.1.1: nobody waits for it without end).
	patience := time.Minute
	if *version == 2 {
		patience = time.Second
	}
	transport := &http.Transport{
		TLSClientConfig: config, Protocols: protocols, ForceAttemptHTTP2: *version == 2, DisableCompression: true,
		ExpectContinueTimeout: patience, MaxIdleConnsPerHost: 200,
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			c.dials.Add(1)
			return dialer.DialContext(ctx, network, address)
		},
	}
	c.http = &http.Client{
		Transport: transport, Timeout: 2 * time.Minute,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	if err := c.all(); err != nil {
		return err
	}
	if *version == 2 && c.dials.Load() != 1 {
		return fmt.Errorf("%d connections where one would do", c.dials.Load())
	}
	return json.NewEncoder(os.Stdout).Encode(c.seen)
}

// get is a request without a body.
func (c *client) get(method, path string) (*http.Request, error) {
	return http.NewRequest(method, c.base+path, nil)
}

// upload is a request with a body of n bytes, of a length that is announced or not.
func (c *client) upload(method, path string, n int, announced bool) (*http.Request, error) {
	request, err := http.NewRequest(method, c.base+path, io.NopCloser(numbered(n)))
	if err == nil && announced {
		request.ContentLength = int64(n)
	}
	return request, err
}

func (c *client) all() error {
	methods := []struct{ name, method, path string }{
		{"small", "GET", "/judge/bytes?n=100"},
		{"empty", "GET", "/judge/bytes?n=0"},
		{"list", "GET", "/judge/bytes?n=3000000"},
		{"streamed", "GET", "/judge/bytes?n=3000000&chunked=1"},
		{"big down", "GET", fmt.Sprintf("/judge/bytes?n=%d", large)},
		{"compressed", "GET", "/judge/bytes?n=5000&encoding=gzip"},
		{"head", "HEAD", "/judge/bytes?n=1000"},
		{"head of much", "HEAD", "/judge/bytes?n=1000000000"},
		{"no content", "GET", "/judge/status?code=204"},
		{"deleted", "DELETE", "/judge/status?code=204"},
		{"not modified", "GET", "/judge/status?code=304"},
		{"moved", "GET", "/judge/status?code=302"},
		{"not found", "GET", "/judge/status?code=404"},
		{"failed", "GET", "/judge/status?code=500"},
		{"trailers", "GET", "/judge/trailers"},
		{"no body", "POST", "/judge/echo"},
	}
	for _, each := range methods {
		request, err := c.get(each.method, each.path)
		if err != nil {
			return err
		}
		request.Header.Set("Te", "trailers")
		if err := c.do(each.name, request); err != nil {
			return err
		}
	}
	for _, announced := range []bool{true, false} {
		for _, n := range []int{1, 70_000, large} {
			name := fmt.Sprintf("up %d announced %t", n, announced)
			request, err := c.upload("POST", "/judge/echo?a=b", n, announced)
			if err != nil {
				return err
			}
			request.Header["X-Judge"] = []string{"one", "two"}
			if err := c.do(name, request); err != nil {
				return err
			}
		}
	}
	for _, method := range []string{"PUT", "PATCH", "DELETE"} {
		request, err := c.upload(method, "/judge/echo", 1000, true)
		if err != nil {
			return err
		}
		if err := c.do(method, request); err != nil {
			return err
		}
	}
	return c.rest()
}

func (c *client) rest() error {
	request, err := c.upload("POST", "/judge/echo", 5000, false)
	if err != nil {
		return err
	}
	request.Trailer = http.Header{"X-Behind": {"the body"}}
	if err := c.do("request trailers", request); err != nil {
		return err
	}

	request, err = c.upload("POST", "/judge/echo", 1<<20, true)
	if err != nil {
		return err
	}
	request.Header.Set("Expect", "100-continue")
	if err := c.do("expected", request); err != nil {
		return err
	}

	// An answer that comes before the body was read.
	request, err = c.upload("POST", "/judge/refuse", 100_000, true)
	if err != nil {
		return err
	}
	request.Header.Set("Expect", "100-continue")
	if err := c.do("refused", request); err != nil {
		return err
	}

	if err := c.parallel(); err != nil {
		return err
	}
	return c.cancel()
}

// parallel has a hundred answers under way at once.
func (c *client) parallel() error {
	const count = 100
	errs := make(chan error, count)
	var all sync.WaitGroup
	var begun sync.WaitGroup
	begun.Add(count)
	for i := range count {
		all.Add(1)
		go func() {
			defer all.Done()
			n := 20_000 + i*1000
			request, err := c.get("GET", fmt.Sprintf("/judge/bytes?n=%d&chunked=1", n))
			if err != nil {
				begun.Done()
				errs <- err
				return
			}
			response, err := c.http.Do(request)
			begun.Done()
			if err != nil {
				errs <- err
				return
			}
			defer response.Body.Close()
			begun.Wait() // nobody reads before all have been answered
			want, got := sha256.New(), sha256.New()
			_, _ = io.Copy(want, numbered(n))
			if _, err := io.Copy(got, response.Body); err != nil {
				errs <- err
			} else if !bytes.Equal(want.Sum(nil), got.Sum(nil)) {
				errs <- fmt.Errorf("the body of %d bytes is another one", n)
			}
		}()
	}
	all.Wait()
	close(errs)
	for err := range errs {
		return fmt.Errorf("parallel: %w", err)
	}
	return nil
}

// cancel leaves answers that do not end; the server hears of each.
func (c *client) cancel() error {
	const count = 20
	before, err := c.cancelled()
	if err != nil {
		return err
	}
	for range count {
		ctx, leave := context.WithCancel(context.Background())
		request, err := http.NewRequestWithContext(ctx, "GET", c.base+"/judge/wait", nil)
		if err != nil {
			leave()
			return err
		}
		response, err := c.http.Do(request)
		if err != nil {
			leave()
			return err
		}
		line := make([]byte, 6)
		_, err = io.ReadFull(response.Body, line)
		leave()
		_ = response.Body.Close()
		if err != nil {
			return err
		}
	}
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		now, err := c.cancelled()
		if err != nil {
			return err
		}
		if now == before+count {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("of %d that were left the server has heard of %d", count, now-before)
		}
	}
}

func (c *client) cancelled() (int, error) {
	request, err := c.get("GET", "/judge/cancelled")
	if err != nil {
		return 0, err
	}
	response, err := c.http.Do(request)
	if err != nil {
		return 0, err
	}
	defer response.Body.Close()
	var count int
	_, err = fmt.Fscan(response.Body, &count)
	return count, err
}

// do sends a request and writes down its answer.
func (c *client) do(name string, request *http.Request) error {
	response, err := c.http.Do(request)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	defer response.Body.Close()
	hash, kept := sha256.New(), &bytes.Buffer{}
	n, err := io.Copy(hash, io.TeeReader(response.Body, &limited{kept, 2000}))
	if err != nil {
		return fmt.Errorf("%s, after %d bytes: %w", name, n, err)
	}
	answer := seen{
		Status: response.StatusCode, Length: n, Sum: hex.EncodeToString(hash.Sum(nil)),
		Headers: map[string][]string{}, Trailers: map[string]string{},
	}
	for header, values := range response.Header {
		answer.Headers[strings.ToLower(header)] = values
	}
	for trailer := range response.Trailer {
		answer.Trailers[strings.ToLower(trailer)] = response.Trailer.Get(trailer)
	}
	if response.Header.Get("Content-Type") == "application/json" {
		answer.Body = kept.String()
	}
	c.seen[name] = answer
	return nil
}

// limited takes everything and keeps the beginning.
type limited struct {
	to   *bytes.Buffer
	left int
}

func (l *limited) Write(p []byte) (int, error) {
	keep := min(l.left, len(p))
	l.to.Write(p[:keep])
	l.left -= keep
	return len(p), nil
}

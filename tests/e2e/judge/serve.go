package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

var cancelled atomic.Int64

// serve answers on a free port of this machine, which it prints, until its standard input ends.
func serve(args []string) error {
	flags := flag.NewFlagSet("serve", flag.ExitOnError)
	cert := flags.String("cert", "", "PEM file")
	key := flags.String("key", "", "PEM file")
	if err := flags.Parse(args); err != nil {
		return err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Println(listener.Addr().(*net.TCPAddr).Port)
	mux := http.NewServeMux()
	mux.HandleFunc("/judge/bytes", sendBytes)
	mux.HandleFunc("/judge/echo", echo)
	mux.HandleFunc("/judge/status", status)
	mux.HandleFunc("/judge/trailers", trailers)
	mux.HandleFunc("/judge/refuse", refuse)
	mux.HandleFunc("/judge/wait", wait)
	mux.HandleFunc("/judge/cancelled", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, cancelled.Load())
	})
	mux.HandleFunc("/", apiserver)
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if id := r.Header.Get("Audit-Id"); id != "" {
			w.Header().Set("Audit-Id", id)
		}
		mux.ServeHTTP(w, r)
	})
	server := &http.Server{Handler: handler, ErrorLog: log.New(io.Discard, "", 0)}
	return server.ServeTLS(listener, *cert, *key)
}

func number(r *http.Request, name string, otherwise int) int {
	n, err := strconv.Atoi(r.URL.Query().Get(name))
	if err != nil {
		return otherwise
	}
	return n
}

// pattern is what every body of this judge begins with.
var pattern = func() []byte {
	block := make([]byte, 64<<10)
	for i := range block {
		block[i] = byte(i*31 + i>>8)
	}
	return block
}()

// numbered are n bytes that are the same each time.
func numbered(n int) io.Reader {
	return io.LimitReader(&repeated{}, int64(n))
}

type repeated struct{ at int }

func (r *repeated) Read(p []byte) (int, error) {
	n := copy(p, pattern[r.at:])
	r.at = (r.at + n) % len(pattern)
	return n, nil
}

func sendBytes(w http.ResponseWriter, r *http.Request) {
	n := number(r, "n", 0)
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Add("Warning", `299 - "one"`)
	w.Header().Add("Warning", `299 - "two"`)
	if encoding := r.URL.Query().Get("encoding"); encoding != "" {
		w.Header().Set("Content-Encoding", encoding)
		w.Header().Set("Vary", "Accept-Encoding")
	}
	if r.URL.Query().Get("chunked") == "" {
		w.Header().Set("Content-Length", strconv.Itoa(n))
	} else {
		w.(http.Flusher).Flush()
	}
	if r.Method != http.MethodHead {
		_, _ = io.Copy(w, numbered(n))
	}
}

// echo says what it has received.
func echo(w http.ResponseWriter, r *http.Request) {
	hash := sha256.New()
	n, err := io.Copy(hash, r.Body)
	said := map[string]any{
		"method": r.Method, "length": n, "sha256": hex.EncodeToString(hash.Sum(nil)), "whole": err == nil,
		"query": r.URL.RawQuery, "x-judge": r.Header.Values("X-Judge"), "content-type": r.Header.Get("Content-Type"),
	}
	found := map[string]string{}
	for name := range r.Trailer {
		found[strings.ToLower(name)] = r.Trailer.Get(name)
	}
	said["trailers"] = found
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(said)
}

func status(w http.ResponseWriter, r *http.Request) {
	code := number(r, "code", 200)
	w.Header().Set("Etag", `"judge"`)
	if code == http.StatusFound {
		w.Header().Set("Location", "/judge/bytes?n=1")
	}
	w.WriteHeader(code)
	if code != 204 && code != 304 && code >= 200 {
		fmt.Fprintf(w, "status %d\n", code)
	}
}

func trailers(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Trailer", "X-Sum, X-More")
	w.WriteHeader(http.StatusOK)
	w.(http.Flusher).Flush()
	_, _ = io.Copy(w, numbered(1000))
	w.Header().Set("X-Sum", "of it all")
	w.Header().Set("X-More", "behind the body")
}

// refuse answers before it reads, which an Expect: 100-continue is for.
func refuse(w http.ResponseWriter, r *http.Request) {
	if r.ProtoMajor == 1 {
		w.Header().Set("Connection", "close")
	}
	http.Error(w, "too large", http.StatusRequestEntityTooLarge)
}

// wait begins to answer and goes on until its client leaves.
func wait(w http.ResponseWriter, r *http.Request) {
	fmt.Fprintln(w, "begun")
	w.(http.Flusher).Flush()
	select {
	case <-r.Context().Done():
		cancelled.Add(1)
	case <-time.After(5 * time.Minute):
	}
}

// apiserver says yes to whatever an agent needs to prepare an account.
func apiserver(w http.ResponseWriter, r *http.Request) {
	object := map[string]any{}
	body, _ := io.ReadAll(r.Body)
	_ = json.NewDecoder(bytes.NewReader(body)).Decode(&object)
	switch {
	case r.URL.Path == "/version":
		object = map[string]any{"major": "1", "minor": "35", "gitVersion": "v1.35.0"}
	case strings.HasSuffix(r.URL.Path, "/token"):
		object["spec"] = map[string]any{"expirationSeconds": 3600}
		object["status"] = map[string]any{"token": "a.judges.token"}
	case strings.HasSuffix(r.URL.Path, "/selfsubjectaccessreviews"):
		object["status"] = map[string]any{"allowed": true}
	case r.Method == http.MethodGet:
		object = map[string]any{"kind": "List", "items": []any{}, "metadata": map[string]any{}}
	default:
		metadata, _ := object["metadata"].(map[string]any)
		if metadata == nil {
			metadata = map[string]any{}
		}
		metadata["uid"], metadata["resourceVersion"] = "6f9619ff-8b86-4011-b42d-00c04fc964ff", "1"
		object["metadata"] = metadata
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(object)
}

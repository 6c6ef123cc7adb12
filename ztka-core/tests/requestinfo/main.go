// Command requestinfo says how an apiserver reads requests: one "METHOD target" per line in, one JSON object per line out.
package main

import (
	"bufio"
	"encoding/json"
	"flag"
	"net/http"
	"net/url"
	"os"
	"strings"

	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/klog/v2"
)

type answer struct {
	Error       bool
	IsResource  bool
	Verb        string
	Path        string
	Group       string
	Version     string
	Namespace   string
	Resource    string
	Subresource string
	Name        string
}

func main() {
	flags := flag.NewFlagSet("klog", flag.PanicOnError)
	klog.InitFlags(flags)
	_ = flags.Parse([]string{"-logtostderr=false", "-alsologtostderr=false", "-stderrthreshold=FATAL"})
	klog.SetOutput(discard{})

	factory := &request.RequestInfoFactory{APIPrefixes: sets.NewString("api", "apis"), GrouplessAPIPrefixes: sets.NewString("api")}
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 1<<20)
	out := bufio.NewWriterSize(os.Stdout, 1<<16)
	defer out.Flush()
	encoder := json.NewEncoder(out)
	encoder.SetEscapeHTML(false)
	for lines.Scan() {
		method, target, _ := strings.Cut(lines.Text(), " ")
		_ = encoder.Encode(read(factory, method, target))
	}
}

// read follows net/http's server, which parses the request line's target so.
func read(factory *request.RequestInfoFactory, method, target string) answer {
	parsed, err := url.ParseRequestURI(target)
	if err != nil {
		return answer{Error: true}
	}
	info, err := factory.NewRequestInfo(&http.Request{Method: method, URL: parsed})
	if err != nil {
		return answer{Error: true}
	}
	read := answer{IsResource: info.IsResourceRequest, Verb: info.Verb}
	if !info.IsResourceRequest {
		read.Path = info.Path
		return read
	}
	read.Group, read.Version, read.Namespace = info.APIGroup, info.APIVersion, info.Namespace
	read.Resource, read.Subresource, read.Name = info.Resource, info.Subresource, info.Name
	return read
}

type discard struct{}

func (discard) Write(line []byte) (int, error) { return len(line), nil }

// Collector takes OTLP logs over HTTP, with OpenTelemetry's own types, and writes what it has read as JSON lines.
package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"sync"

	collector "go.opentelemetry.io/proto/slim/otlp/collector/logs/v1"
	common "go.opentelemetry.io/proto/slim/otlp/common/v1"
	"google.golang.org/protobuf/proto"
)

type line struct {
	Resource, Attributes             map[string]string
	Scope, Severity, Body, EventName string
	Time                             uint64
}

func texts(pairs []*common.KeyValue) map[string]string {
	found := map[string]string{}
	for _, pair := range pairs {
		found[pair.Key] = pair.Value.GetStringValue()
	}
	return found
}

func main() {
	out, err := os.OpenFile(os.Args[2], os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		panic(err)
	}
	var turn sync.Mutex
	http.HandleFunc("POST /v1/logs", func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		var request collector.ExportLogsServiceRequest
		if r.Header.Get("Content-Type") != "application/x-protobuf" || proto.Unmarshal(body, &request) != nil || len(request.ProtoReflect().GetUnknown()) > 0 {
			http.Error(w, "not an ExportLogsServiceRequest", http.StatusBadRequest)
			return
		}
		turn.Lock()
		defer turn.Unlock()
		var response collector.ExportLogsServiceResponse
		for _, resource := range request.ResourceLogs {
			for _, scope := range resource.ScopeLogs {
				for _, log := range scope.LogRecords {
					l := line{
						texts(resource.Resource.Attributes), texts(log.Attributes), scope.Scope.Name, log.SeverityText,
						log.Body.GetStringValue(), log.EventName, log.TimeUnixNano,
					}
					if l.Attributes["user.name"] == "nobody takes this" {
						response.PartialSuccess = &collector.ExportLogsPartialSuccess{RejectedLogRecords: 1, ErrorMessage: "not this"}
						continue
					}
					text, err := json.Marshal(l)
					if err != nil {
						panic(err)
					}
					if _, err := out.Write(append(text, '\n')); err != nil {
						panic(err)
					}
				}
			}
		}
		answer, err := proto.Marshal(&response)
		if err != nil {
			panic(err)
		}
		w.Header().Set("Content-Type", "application/x-protobuf")
		w.Write(answer)
	})
	fmt.Fprintln(os.Stderr, http.ListenAndServe(os.Args[1], nil))
	os.Exit(1)
}

// Command kubernetes is the apiserver's own reading of audit events and audit policies.
//
//	kubernetes events            one event per line in; "ok <stage> <level>" or "error: …" per line out
//	kubernetes policy FILE       one question in JSON per line in; "<level> <omitManagedFields> <omitted stages>" per line out
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"sort"
	"strings"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	audit "k8s.io/apiserver/pkg/apis/audit"
	v1 "k8s.io/apiserver/pkg/apis/audit/v1"
	registered "k8s.io/apiserver/pkg/audit"
	"k8s.io/apiserver/pkg/audit/policy"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
)

type question struct {
	User, Verb, Namespace, Group, Resource, Subresource, Name, Path string
	Groups                                                          []string
	IsResource                                                      bool
}

func main() {
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 1<<20)
	out := bufio.NewWriter(os.Stdout)
	defer out.Flush()
	answer := event()
	if os.Args[1] == "policy" {
		answer = decide(os.Args[2])
	}
	for lines.Scan() {
		fmt.Fprintln(out, answer(lines.Bytes()))
	}
}

func event() func([]byte) string {
	strict := serializer.NewCodecFactory(registered.Scheme, serializer.EnableStrict).UniversalDecoder(v1.SchemeGroupVersion)
	levels := map[v1.Level]bool{v1.LevelNone: true, v1.LevelMetadata: true, v1.LevelRequest: true, v1.LevelRequestResponse: true}
	stages := map[v1.Stage]bool{
		v1.StageRequestReceived: true, v1.StageResponseStarted: true, v1.StageResponseComplete: true, v1.StagePanic: true,
	}
	return func(line []byte) string {
		object, _, err := strict.Decode(line, nil, nil)
		if err != nil {
			return "error: " + strings.ReplaceAll(err.Error(), "\n", " ")
		}
		event, isEvent := object.(*v1.Event)
		switch {
		case !isEvent:
			return fmt.Sprintf("error: a %T", object)
		case !levels[event.Level] || !stages[event.Stage]:
			return fmt.Sprintf("error: level %q, stage %q", event.Level, event.Stage)
		case event.AuditID == "" || event.RequestReceivedTimestamp.IsZero() || event.StageTimestamp.IsZero():
			return "error: without an id or a time"
		}
		for _, body := range [][]byte{raw(event.RequestObject), raw(event.ResponseObject)} {
			var any interface{}
			if len(body) > 0 && json.Unmarshal(body, &any) != nil {
				return "error: a body that is no JSON"
			}
		}
		return fmt.Sprintf("ok %s %s", event.Stage, event.Level)
	}
}

func decide(file string) func([]byte) string {
	loaded, err := policy.LoadPolicyFromFile(file)
	if err != nil {
		return func([]byte) string { return "error: " + strings.ReplaceAll(err.Error(), "\n", " ") }
	}
	evaluator := policy.NewPolicyRuleEvaluator(loaded)
	return func(line []byte) string {
		var asked question
		if err := json.Unmarshal(line, &asked); err != nil {
			return "error: " + err.Error()
		}
		said := evaluator.EvaluatePolicyRule(authorizer.AttributesRecord{
			User: &user.DefaultInfo{Name: asked.User, Groups: asked.Groups}, Verb: asked.Verb, Namespace: asked.Namespace,
			APIGroup: asked.Group, Resource: asked.Resource, Subresource: asked.Subresource, Name: asked.Name,
			ResourceRequest: asked.IsResource, Path: asked.Path,
		})
		var omitted []string
		for _, stage := range said.OmitStages {
			if stage == audit.StageResponseStarted {
				omitted = []string{string(stage)}
			}
		}
		sort.Strings(omitted)
		return fmt.Sprintf("%s %t %s", said.Level, said.OmitManagedFields, strings.Join(omitted, ","))
	}
}

func raw(unknown *runtime.Unknown) []byte {
	if unknown == nil {
		return nil
	}
	return unknown.Raw
}

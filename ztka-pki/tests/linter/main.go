// Says of each certificate and CRL what zlint finds in it. One JSON object per line, in and out.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"sort"

	"github.com/zmap/zcrypto/x509"
	"github.com/zmap/zlint/v3"
	"github.com/zmap/zlint/v3/lint"
)

type question struct {
	Certificate []byte `json:"certificate"`
	CRL         []byte `json:"crl"`
}

type finding struct {
	Lint    string `json:"lint"`
	Source  string `json:"source"`
	Status  string `json:"status"`
	Details string `json:"details"`
}

type answer struct {
	Ran      int       `json:"ran"` // lints that had something to say
	Findings []finding `json:"findings"`
}

func judge(asked question) (*zlint.ResultSet, error) {
	if len(asked.CRL) > 0 {
		crl, err := x509.ParseRevocationList(asked.CRL)
		if err != nil {
			return nil, err
		}
		return zlint.LintRevocationList(crl), nil
	}
	certificate, err := x509.ParseCertificate(asked.Certificate)
	if err != nil {
		return nil, err
	}
	return zlint.LintCertificate(certificate), nil
}

func source(registry lint.Registry, name string) string {
	if found := registry.ByName(name); found != nil {
		return string(found.Source)
	}
	for _, found := range registry.RevocationListLints().Lints() {
		if found.Name == name {
			return string(found.Source)
		}
	}
	return "unknown"
}

func main() {
	registry := lint.GlobalRegistry()
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 1<<20)
	answers := json.NewEncoder(os.Stdout)
	for lines.Scan() {
		var asked question
		if err := json.Unmarshal(lines.Bytes(), &asked); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		told := answer{Findings: []finding{}}
		found, err := judge(asked)
		if err != nil {
			told.Findings = append(told.Findings, finding{"parse", "zcrypto", "fatal", err.Error()})
			found = &zlint.ResultSet{}
		}
		for name, result := range found.Results {
			if result.Status > lint.NE {
				told.Ran++
			}
			if result.Status >= lint.Notice {
				told.Findings = append(told.Findings, finding{name, source(registry, name), result.Status.String(), result.Details})
			}
		}
		sort.Slice(told.Findings, func(i, j int) bool { return told.Findings[i].Lint < told.Findings[j].Lint })
		if err := answers.Encode(told); err != nil {
			os.Exit(1)
		}
	}
}

// Says of each chain whether Go's crypto/x509, and so kubectl, believes it. One JSON object per line, in and out.
package main

import (
	"bufio"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"os"
	"time"
)

type question struct {
	Anchor []byte   `json:"anchor"`
	Above  [][]byte `json:"above"`
	Leaf   []byte   `json:"leaf"`
	Server string   `json:"server"` // the name asked for; empty for a client's chain
	At     int64    `json:"at"`
}

type answer struct {
	Accepted bool   `json:"accepted"`
	Why      string `json:"why"`
}

func judge(asked question) error {
	anchor, err := x509.ParseCertificate(asked.Anchor)
	if err != nil {
		return err
	}
	options := x509.VerifyOptions{
		Roots:         x509.NewCertPool(),
		Intermediates: x509.NewCertPool(),
		CurrentTime:   time.Unix(asked.At, 0),
		KeyUsages:     []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	if asked.Server != "" {
		options.DNSName = asked.Server
		options.KeyUsages = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	}
	options.Roots.AddCert(anchor)
	for _, der := range asked.Above {
		above, err := x509.ParseCertificate(der)
		if err != nil {
			return err
		}
		options.Intermediates.AddCert(above)
	}
	leaf, err := x509.ParseCertificate(asked.Leaf)
	if err != nil {
		return err
	}
	_, err = leaf.Verify(options)
	return err
}

func main() {
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 1<<20)
	answers := json.NewEncoder(os.Stdout)
	for lines.Scan() {
		var asked question
		if err := json.Unmarshal(lines.Bytes(), &asked); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		told := answer{Accepted: true}
		if err := judge(asked); err != nil {
			told = answer{Why: err.Error()}
		}
		if err := answers.Encode(told); err != nil {
			os.Exit(1)
		}
	}
}

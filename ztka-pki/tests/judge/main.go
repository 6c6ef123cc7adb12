// Says of each chain whether Go's crypto/x509, and so kubectl, believes it. One JSON object per line, in and out.
package main

import (
	"bufio"
	"crypto/x509"
	"encoding/json"
	"errors"
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
	Crl    []byte   `json:"crl"` // of the leaf's issuer; empty where nobody looks at lists
}

type answer struct {
	Accepted bool   `json:"accepted"`
	Why      string `json:"why"`
	List     *list  `json:"list"` // what was read of the list, if there was one
}

type list struct {
	Number  string  `json:"number"`
	From    int64   `json:"from"`
	Until   int64   `json:"until"`
	KeyId   []byte  `json:"key_id"`
	Entries []entry `json:"entries"`
}

type entry struct {
	Serial string `json:"serial"` // in hexadecimal
	Since  int64  `json:"since"`
	Reason int    `json:"reason"`
}

func read(der []byte) (*x509.RevocationList, *list, error) {
	parsed, err := x509.ParseRevocationList(der)
	if err != nil {
		return nil, nil, err
	}
	told := &list{From: parsed.ThisUpdate.Unix(), Until: parsed.NextUpdate.Unix(), KeyId: parsed.AuthorityKeyId, Entries: []entry{}}
	if parsed.Number != nil {
		told.Number = parsed.Number.String()
	}
	for _, one := range parsed.RevokedCertificateEntries {
		told.Entries = append(told.Entries, entry{one.SerialNumber.Text(16), one.RevocationTime.Unix(), one.ReasonCode})
	}
	return parsed, told, nil
}

// Whether a list, by the authority above the leaf and valid at the time, has the leaf not.
func listed(parsed *x509.RevocationList, leaf, issuer *x509.Certificate, at time.Time) error {
	if err := parsed.CheckSignatureFrom(issuer); err != nil {
		return err
	}
	if at.Before(parsed.ThisUpdate) || at.After(parsed.NextUpdate) {
		return errors.New("the list is not of this time")
	}
	for _, one := range parsed.RevokedCertificateEntries {
		if one.SerialNumber.Cmp(leaf.SerialNumber) == 0 {
			return errors.New("revoked")
		}
	}
	return nil
}

func judge(asked question, parsed *x509.RevocationList) error {
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
	chains, err := leaf.Verify(options)
	if err != nil || parsed == nil {
		return err
	}
	for _, chain := range chains {
		if len(chain) < 2 {
			return errors.New("nobody has issued it")
		}
		if err = listed(parsed, leaf, chain[1], options.CurrentTime); err == nil {
			return nil
		}
	}
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
		var told answer
		var parsed *x509.RevocationList
		var err error
		if len(asked.Crl) > 0 {
			parsed, told.List, err = read(asked.Crl)
		}
		if err == nil {
			err = judge(asked, parsed)
		}
		if told.Accepted = err == nil; err != nil {
			told.Why = err.Error()
		}
		if err := answers.Encode(told); err != nil {
			os.Exit(1)
		}
	}
}

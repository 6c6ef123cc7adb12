// Judge is Go's net/http on both sides of the installation: a server in the place of an apiserver, and a client that asks
// it directly and by way of the installation, and writes down what it sees. It knows nothing of ZTKA.
package main

import (
	"fmt"
	"os"
)

func main() {
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, "judge serve|ask …")
		os.Exit(2)
	}
	var err error
	switch os.Args[1] {
	case "serve":
		err = serve(os.Args[2:])
	case "ask":
		err = ask(os.Args[2:])
	default:
		err = fmt.Errorf("judge %s: there is serve and ask", os.Args[1])
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

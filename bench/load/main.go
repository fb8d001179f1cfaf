// SPDX-License-Identifier: GPL-3.0-or-later

// Command load generates load for measurements on loopback. It reads a plan (JSON) from standard input, runs all groups
// of clients at the same time, checks every body, and prints the results as JSON.
//
// "load serve ADDRESS FOLDER" runs a server for comparison; see serveBlobs.
package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
)

func main() {
	var err error
	if len(os.Args) == 4 && os.Args[1] == "serve" {
		err = serveBlobs(os.Args[2], os.Args[3])
	} else {
		err = command(os.Stdin, os.Stdout)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "load:", err)
		os.Exit(1)
	}
}

// command reads a plan, runs it and writes the report.
func command(in io.Reader, out io.Writer) error {
	plan, err := readPlan(in)
	if err != nil {
		return err
	}
	report, err := run(plan)
	if err != nil {
		return err
	}
	encoder := json.NewEncoder(out)
	encoder.SetIndent("", " ")
	return encoder.Encode(report)
}

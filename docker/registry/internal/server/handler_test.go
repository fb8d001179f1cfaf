// SPDX-License-Identifier: GPL-3.0-or-later

package server

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	"pullthrough.registry_cache/docker/registry/internal/testutil"
)

// code returns the code of an error body.
func code(t *testing.T, body string) string {
	t.Helper()
	var decoded struct {
		Errors []struct{ Code, Message string }
	}
	if err := json.Unmarshal([]byte(body), &decoded); err != nil || len(decoded.Errors) != 1 || decoded.Errors[0].Message == "" {
		t.Fatalf("%q is not an error body: %v", body, err)
	}
	return decoded.Errors[0].Code
}

func TestDecisions(t *testing.T) {
	r := start(t, func(o *Options) {
		o.Checker = words{
			"": {Verdict: Bad}, "Basic good": {Verdict: Good}, "Basic bad": {Verdict: Bad}, "Basic busy": {Verdict: TryLater},
			"Basic busier": {Verdict: TryLater, RetryAfter: 4500 * time.Millisecond}, "Basic odd": {Verdict: 99},
			"Basic negative": {Verdict: -1},
		}
	})
	for _, test := range []struct {
		authorization string
		status        int
		code          string
		header, value string
	}{
		{"Basic good", 200, "", "", ""},
		{"", 401, "UNAUTHORIZED", "WWW-Authenticate", `Basic realm="registry-cache"`},
		{"Basic bad", 401, "UNAUTHORIZED", "WWW-Authenticate", `Basic realm="registry-cache"`},
		{"Basic busy", 429, "TOOMANYREQUESTS", "Retry-After", "2"},
		{"Basic busier", 429, "TOOMANYREQUESTS", "Retry-After", "5"},
		{"Basic unknown", 403, "DENIED", "", ""},
		{"Basic odd", 403, "DENIED", "", ""},
		{"Basic negative", 403, "DENIED", "", ""},
	} {
		var headers []string
		if test.authorization != "" {
			headers = []string{"Authorization: " + test.authorization}
		}
		for _, path := range []string{"/v2/", "/", "/metrics", "//ready", "/ready/", "/alive/x"} {
			response, body := r.ask("GET", path, headers...)
			if response.StatusCode != test.status || test.header != "" && response.Header.Get(test.header) != test.value {
				t.Errorf("%q at %s: got %d, %v", test.authorization, path, response.StatusCode, response.Header)
			}
			if test.code == "" {
				if body != "hello" {
					t.Errorf("got %q", body)
				}
			} else if got := code(t, body); got != test.code || response.Header.Get("Content-Type") != "application/json" {
				t.Errorf("%q: got %s, want %s", test.authorization, got, test.code)
			}
			response, body = r.ask("HEAD", path, headers...)
			if response.StatusCode != test.status || body != "" || test.code != "" && response.ContentLength <= 0 {
				t.Errorf("HEAD with %q: got %d, %q, %d", test.authorization, response.StatusCode, body, response.ContentLength)
			}
		}
	}
}

func TestTwoCredentialsAreRefused(t *testing.T) {
	r := start(t, nil)
	if response, _ := r.ask("GET", "/v2/", "Authorization: Basic good", "Authorization: Basic good"); response.StatusCode != 401 {
		t.Errorf("got %d", response.StatusCode)
	}
}

func TestHandlerDoesNotSeeTheCredential(t *testing.T) {
	r := start(t, func(o *Options) {
		o.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprintf(w, "%q", r.Header["Authorization"]) })
	})
	if _, body := r.ask("GET", "/v2/", "Authorization: Basic good"); body != "[]" {
		t.Error(body)
	}
}

func TestRequiredOptions(t *testing.T) {
	complete := Options{Handler: hello, Checker: allowAll{}, Log: slog.New(slog.DiscardHandler)}
	if _, err := New(complete); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*Options){
		"handler": func(o *Options) { o.Handler = nil },
		"checker": func(o *Options) { o.Checker = nil },
		"log":     func(o *Options) { o.Log = nil },
	} {
		o := complete
		change(&o)
		if _, err := New(o); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("without %s: %v", name, err)
		}
	}
}

func TestMethods(t *testing.T) {
	r := start(t, nil)
	for _, method := range []string{"POST", "PUT", "PATCH", "DELETE", "OPTIONS", "CONNECT", "TRACE", "get"} {
		response, body := r.ask(method, "/v2/r/blobs/uploads/", "Authorization: Basic good", "Content-Length: 0")
		if response.StatusCode != 405 || response.Header.Get("Allow") != "GET, HEAD" || code(t, body) != "UNSUPPORTED" {
			t.Errorf("%s: got %d, %q", method, response.StatusCode, body)
		}
	}
	if response, _ := r.ask("OPTIONS", "*"); response.StatusCode != 405 {
		t.Errorf("OPTIONS *: got %d", response.StatusCode)
	}
}

func TestBodiesAreNotRead(t *testing.T) {
	r := start(t, nil)
	for name, head := range map[string]string{
		"length":         request("POST", "/v2/", "Content-Length: 1000000000"),
		"chunked":        request("PUT", "/v2/", "Transfer-Encoding: chunked"),
		"expectation":    request("PUT", "/v2/", "Content-Length: 10", "Expect: 100-continue"),
		"lines":          request("PUT", "/v2/", "Content-Length: 1000000000") + strings.Repeat("x\n", 2*headerLines),
		"GET with body":  request("GET", "/v2/", "Authorization: Basic good", "Content-Length: 10"),
		"probe and body": request("GET", "/alive", "Content-Length: 10"),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := r.dial()
			begin := time.Now()
			send(t, c, head)
			reader := bufio.NewReader(c)
			response, body := answer(t, reader, "POST")
			want := 405
			if strings.HasPrefix(head, "GET") {
				want = 400
			}
			if response.StatusCode != want || !response.Close || code(t, body) != "UNSUPPORTED" {
				t.Errorf("got %d, %v, %q", response.StatusCode, response.Header, body)
			}
			if waited := time.Since(begin); waited > linger*9/10 {
				t.Errorf("the answer took %v", waited)
			}
			closes(t, reader)
		})
	}
}

// TestAnswerArrivesDuringBody checks that a client that sends its whole body first receives the response, and not a
// reset.
func TestAnswerArrivesDuringBody(t *testing.T) {
	r := start(t, nil)
	c := r.dial()
	send(t, c, request("POST", "/v2/", "Content-Length: 200000")+strings.Repeat("x", 200_000))
	if response, _ := answer(t, bufio.NewReader(c), "POST"); response.StatusCode != 405 {
		t.Errorf("got %d", response.StatusCode)
	}
}

// TestBodyAfterAnswer checks that a body that arrives after the response is not parsed as a request.
func TestBodyAfterAnswer(t *testing.T) {
	r := start(t, nil)
	c := r.dial()
	reader := bufio.NewReader(c)
	send(t, c, request("POST", "/v2/", "Content-Length: 100000"))
	answer(t, reader, "POST")
	send(t, c, strings.Repeat("x\n", 2*headerLines))
	if rest, err := io.ReadAll(reader); len(rest) > 0 || err != nil && !strings.Contains(err.Error(), "reset") {
		t.Errorf("got %q, %v", rest, err)
	}
}

func TestProbes(t *testing.T) {
	ready := true
	r := start(t, func(o *Options) { o.Ready = func() bool { return ready } })
	status := func(method, path string) int {
		response, _ := r.ask(method, path)
		return response.StatusCode
	}
	for _, method := range []string{"GET", "HEAD"} {
		for _, want := range []int{200, 503} {
			ready = want == 200
			if got := status(method, "/ready"); got != want {
				t.Errorf("%s: got %d, want %d", method, got, want)
			}
			if got := status(method, "/alive?x"); got != 200 {
				t.Errorf("%s: got %d", method, got)
			}
		}
	}
}

func TestPanics(t *testing.T) {
	r := start(t, func(o *Options) {
		o.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			switch r.URL.Path {
			case "/before":
				w.Header().Set("Content-Length", "100")
				panic("a fault")
			case "/during":
				w.Header().Set("Content-Length", "100")
				_, _ = io.WriteString(w, "part")
				_ = http.NewResponseController(w).Flush()
				panic("a fault")
			case "/chunked":
				_, _ = io.WriteString(w, "part")
				_ = http.NewResponseController(w).Flush()
				panic("a fault")
			case "/abort":
				w.Header().Set("Content-Length", "100")
				_, _ = io.WriteString(w, "part")
				_ = http.NewResponseController(w).Flush()
				panic(fmt.Errorf("wrapped: %w", http.ErrAbortHandler))
			case "/silent":
			}
		})
	})
	for _, path := range []string{"/before", "/silent"} {
		response, body := r.ask("GET", path, "Authorization: Basic good")
		if response.StatusCode != 500 || code(t, body) != "UNKNOWN" {
			t.Errorf("%s: got %d, %q", path, response.StatusCode, body)
		}
	}
	for _, path := range []string{"/during", "/chunked", "/abort"} {
		c := r.dial()
		send(t, c, request("GET", path, "Authorization: Basic good"))
		response, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			t.Fatal(err)
		}
		if body, err := io.ReadAll(response.Body); !errors.Is(err, io.ErrUnexpectedEOF) || string(body) != "part" {
			t.Errorf("%s: got %q, %v", path, body, err)
		}
	}
	if p, s := r.events.of(HandlerPanicked), r.events.of(HandlerSilent); p != 3 || s != 1 {
		t.Errorf("got %d panics and %d silent handlers", p, s)
	}
	if text := r.log.String(); strings.Count(text, "A handler panicked") != 3 || !strings.Contains(text, "handler_test.go") {
		t.Errorf("the log has no stack of the fault:\n%s", text)
	}
}

func TestAccessLog(t *testing.T) {
	for every, want := range map[int]int{0: 0, 1: 7, 3: 3} {
		t.Run(fmt.Sprint(every), func(t *testing.T) {
			log := &testutil.LogBuffer{}
			r := start(t, func(o *Options) {
				o.Access, o.AccessEvery = slog.New(slog.NewJSONHandler(log, nil)), every
			})
			for range 5 {
				r.ask("GET", "/v2/r/manifests/latest?ns=a.example&token=hunter2", "Authorization: Basic good")
			}
			r.ask("GET", "/v2/", "Authorization: Basic hunter2")
			r.ask("POST", "/v2/", "Authorization: Basic hunter2")
			r.stop()
			if err := r.ended(); err != nil {
				t.Error(err)
			}
			text := log.String()
			if got := strings.Count(text, "\n"); got != want {
				t.Errorf("got %d lines, want %d", got, want)
			}
			if strings.Contains(text, "hunter2") || strings.Contains(text, "Basic") {
				t.Errorf("a secret is logged:\n%s", text)
			}
			if want == 0 {
				return
			}
			var line struct {
				Method, Path, NS, Remote string
				Status, Bytes            int
			}
			if err := json.Unmarshal([]byte(text[:strings.IndexByte(text, '\n')]), &line); err != nil {
				t.Fatal(err)
			}
			if line.Method != "GET" || line.Path != "/v2/r/manifests/latest" || line.NS != "a.example" || line.Status != 200 || line.Bytes != 5 {
				t.Errorf("got %+v", line)
			}
		})
	}
}

func TestAccessLogIsBounded(t *testing.T) {
	log := &testutil.LogBuffer{}
	r := start(t, func(o *Options) { o.Access, o.AccessEvery = slog.New(slog.NewTextHandler(log, nil)), 1 })
	long := strings.Repeat("x", 3000)
	r.ask("GET", "/v2/"+long+"?ns="+long, "User-Agent: "+long, "Range: "+long)
	r.stop()
	if err := r.ended(); err != nil {
		t.Error(err)
	}
	if n := len(log.String()); n == 0 || n > 3000 {
		t.Errorf("a line has %d bytes", n)
	}
}

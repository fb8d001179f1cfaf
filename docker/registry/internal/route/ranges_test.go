// SPDX-License-Identifier: GPL-3.0-or-later

package route

import (
	"bytes"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"
	"time"
)

func TestRanges(t *testing.T) {
	const whole, none = 200, 416
	for _, test := range []struct {
		header string
		size   int64
		want   []Range
		status int
	}{
		{"bytes=0-9", 100, []Range{{0, 10}}, 206},
		{"bytes=0-0", 100, []Range{{0, 1}}, 206},
		{"bytes=90-", 100, []Range{{90, 10}}, 206},
		{"bytes=90-200", 100, []Range{{90, 10}}, 206},
		{"bytes=0-99", 100, []Range{{0, 100}}, 206},
		{"bytes=-10", 100, []Range{{90, 10}}, 206},
		{"bytes=-200", 100, []Range{{0, 100}}, 206},
		{"bytes=0-9,20-29", 100, []Range{{0, 10}, {20, 10}}, 206},
		{"bytes=20-29 ,\t0-9", 100, []Range{{20, 10}, {0, 10}}, 206},
		{"bytes=0-9,,20-29,", 100, []Range{{0, 10}, {20, 10}}, 206},
		{"bytes=0-9,200-", 100, []Range{{0, 10}}, 206},
		{"BYTES=0-9", 100, []Range{{0, 10}}, 206},
		{"bytes=0-99999999999999999999", 100, []Range{{0, 100}}, 206},
		{"bytes=-99999999999999999999", 100, []Range{{0, 100}}, 206},
		{"bytes=100-", 100, nil, none},
		{"bytes=100-200", 100, nil, none},
		{"bytes=200-,300-", 100, nil, none},
		{"bytes=-0", 100, nil, none},
		{"bytes=99999999999999999999-", 100, nil, none},
		{"", 100, nil, whole},
		{"bytes", 100, nil, whole},
		{"bytes=", 100, nil, whole},
		{"bytes=,", 100, nil, whole},
		{"bytes=-", 100, nil, whole},
		{"bytes=a-b", 100, nil, whole},
		{"bytes=5", 100, nil, whole},
		{"bytes=9-0", 100, nil, whole},
		{"bytes=+1-2", 100, nil, whole},
		{"bytes=1--2", 100, nil, whole},
		{"bytes=0x1-2", 100, nil, whole},
		{"bytes=0 -9", 100, nil, whole},
		{"bytes=0-9;20-29", 100, nil, whole},
		{"bytes=0-9,x", 100, nil, whole},
		{"items=0-9", 100, nil, whole},
		{"bytes=0-60,20-80", 100, nil, whole},
		{"bytes=0-9", 0, nil, whole},
		{"bytes=0-9", -1, nil, whole},
		{"bytes=" + strings.Repeat("0-0,", rangesLimit-1) + "1-1", 1 << 20, append(repeat(Range{0, 1}, rangesLimit-1), Range{1, 1}), 206},
		{"bytes=" + strings.Repeat("0-0,", rangesLimit) + "1-1", 1 << 20, nil, whole},
	} {
		got, satisfiable := Ranges(test.header, test.size)
		status := map[bool]int{true: whole, false: none}[satisfiable]
		if len(got) > 0 {
			status = 206
		}
		if !reflect.DeepEqual(got, test.want) || status != test.status {
			t.Errorf("%.60q of %d: got %v, %d, want %v, %d", test.header, test.size, got, status, test.want, test.status)
		}
	}
}

func repeat(r Range, n int) []Range {
	list := make([]Range, n)
	for i := range list {
		list[i] = r
	}
	return list
}

// served returns the response of http.ServeContent after CleanRange. It joins the parts of a multipart body.
func served(t *testing.T, header string, content []byte) (status int, contentRange string, body []byte) {
	t.Helper()
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r.Header.Set("Range", header)
	CleanRange(r.Header, int64(len(content)))
	w := httptest.NewRecorder()
	w.Header().Set("Content-Type", "application/octet-stream")
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(content))
	kind, parameters, _ := mime.ParseMediaType(w.Header().Get("Content-Type"))
	if w.Code != 206 || kind != "multipart/byteranges" {
		return w.Code, w.Header().Get("Content-Range"), w.Body.Bytes()
	}
	for parts := multipart.NewReader(w.Body, parameters["boundary"]); ; {
		part, err := parts.NextPart()
		if err == io.EOF {
			return w.Code, "", body
		}
		if err != nil {
			t.Fatal(err)
		}
		bytes, err := io.ReadAll(part)
		if err != nil {
			t.Fatal(err)
		}
		body = append(body, bytes...)
	}
}

func TestServeContentAfterCleanRange(t *testing.T) {
	content := []byte("0123456789abcdefghij")
	for header, want := range map[string]string{
		"bytes=0-3":           "206 bytes 0-3/20 0123",
		"bytes=0-3,10-11":     "206  0123ab",
		"bytes=0-3,10-11,50-": "206  0123ab",
		"bytes=-2":            "206 bytes 18-19/20 ij",
		"bytes=-0":            "416 bytes */20 ",
		"bytes=20-":           "416 bytes */20 ",
		"bytes=x":             "200  " + string(content),
		"bytes=3-1":           "200  " + string(content),
		"words=0-3":           "200  " + string(content),
	} {
		status, contentRange, body := served(t, header, content)
		if status == 416 {
			body = nil // an error message
		}
		if got := fmt.Sprintf("%d %s %s", status, contentRange, body); got != want {
			t.Errorf("%s: got %q, want %q", header, got, want)
		}
	}
}

// FuzzRanges checks that ranges are within the content, that their total does not exceed its size, and that
// http.ServeContent serves exactly these.
func FuzzRanges(f *testing.F) {
	for _, header := range []string{"bytes=0-9,20-29", "bytes=-5", "bytes=5-", "bytes=9-1", "bytes=,", "x=1-2", "bytes=18446744073709551616-"} {
		f.Add(header, uint16(100))
	}
	f.Fuzz(func(t *testing.T, header string, size uint16) {
		content := make([]byte, size)
		for i := range content {
			content[i] = byte(i ^ i>>8)
		}
		ranges, satisfiable := Ranges(header, int64(size))
		var want []byte
		for _, r := range ranges {
			if r.Start < 0 || r.Length <= 0 || r.Start+r.Length > int64(size) {
				t.Fatalf("%v of %d", r, size)
			}
			want = append(want, content[r.Start:r.Start+r.Length]...)
		}
		if len(want) > len(content) || len(ranges) > rangesLimit || len(ranges) > 0 && !satisfiable {
			t.Fatalf("%d ranges with %d bytes of %d, %v", len(ranges), len(want), size, satisfiable)
		}
		status, _, body := served(t, header, content)
		switch {
		case !satisfiable:
			if status != 416 {
				t.Fatalf("got %d, want 416", status)
			}
		case len(ranges) == 0:
			if status != 200 || !bytes.Equal(body, content) {
				t.Fatalf("got %d with %d bytes, want 200 with all", status, len(body))
			}
		case status != 206 || !bytes.Equal(body, want):
			t.Fatalf("got %d with %d bytes, want 206 with %d", status, len(body), len(want))
		}
	})
}

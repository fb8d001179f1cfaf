// SPDX-License-Identifier: GPL-3.0-or-later

package route

import (
	"fmt"
	"math"
	"net/http"
	"strconv"
	"strings"
)

// rangesLimit is the maximum number of ranges in a request. Podman asks for up to 1,024 chunks of a layer.
const rangesLimit = 1024

// A Range is a part of some content, in bytes.
type Range struct{ Start, Length int64 }

// Ranges returns the byte ranges that a Range header requests from content of the given size, in the order of the
// header.
//
// No ranges and true mean the whole content with status 200, as RFC 9110 requires for a header that is empty, malformed
// or in another unit. The same holds for more ranges than the limit, and for ranges that together exceed the size. No
// ranges and false mean status 416.
func Ranges(header string, size int64) (ranges []Range, satisfiable bool) {
	unit, set, ok := strings.Cut(header, "=")
	if !ok || !strings.EqualFold(strings.TrimSpace(unit), "bytes") || size <= 0 || strings.Count(set, ",") >= rangesLimit {
		return nil, true
	}
	valid, sum := 0, int64(0)
	for spec := range strings.SplitSeq(set, ",") {
		spec = strings.Trim(spec, " \t")
		if spec == "" {
			continue // RFC 9110 allows empty list elements
		}
		r, ok := parseRange(spec, size)
		if !ok {
			return nil, true
		}
		valid++
		if r.Length > 0 {
			ranges = append(ranges, r)
			if sum += r.Length; sum > size {
				return nil, true
			}
		}
	}
	return ranges, len(ranges) > 0 || valid == 0
}

// parseRange parses a range and clips it to size. The length is 0 if the range is outside of the content. ok is false
// if spec is malformed.
func parseRange(spec string, size int64) (r Range, ok bool) {
	first, last, ok := strings.Cut(spec, "-")
	if !ok {
		return r, false
	}
	if first == "" {
		length, ok := parseDigits(last)
		length = min(length, size)
		return Range{size - length, length}, ok
	}
	start, ok := parseDigits(first)
	if !ok {
		return r, false
	}
	end := int64(math.MaxInt64)
	if last != "" {
		if end, ok = parseDigits(last); !ok || end < start {
			return r, false
		}
	}
	if start >= size {
		return r, true
	}
	return Range{start, min(end, size-1) - start + 1}, true
}

// parseDigits parses a decimal number without a sign. It returns MaxInt64 for larger numbers.
func parseDigits(digits string) (int64, bool) {
	if digits == "" || strings.Trim(digits, "0123456789") != "" {
		return 0, false
	}
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil {
		n = math.MaxInt64
	}
	return n, true
}

// CleanRange rewrites the Range header of a request so that http.ServeContent answers as Ranges specifies. On its own,
// http.ServeContent answers 416 to a malformed header, and 206 to an empty suffix.
func CleanRange(h http.Header, size int64) {
	header := h.Get("Range")
	if header == "" {
		return
	}
	ranges, satisfiable := Ranges(header, size)
	switch {
	case !satisfiable:
		h.Set("Range", fmt.Sprintf("bytes=%d-", size))
	case len(ranges) == 0:
		h.Del("Range")
	default:
		specs := make([]string, len(ranges))
		for i, r := range ranges {
			specs[i] = fmt.Sprintf("%d-%d", r.Start, r.Start+r.Length-1)
		}
		h.Set("Range", "bytes="+strings.Join(specs, ","))
	}
}

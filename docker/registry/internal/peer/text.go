// SPDX-License-Identifier: GPL-3.0-or-later

package peer

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"strconv"
	"strings"
)

const (
	// nameLimit is the maximum length of a member's name, in bytes: that of a DNS label.
	nameLimit = 63
	// headerLimit is the maximum length of a hop or proof header, in bytes. The longest header of this version has 300
	// bytes.
	headerLimit = 512
	// nonceLimit is the length of a nonce: 16 bytes in hex.
	nonceLimit = 32
	// sumLimit is the length of a MAC or sha256 in hex.
	sumLimit = 2 * sha256.Size
)

// computeMAC returns the MAC of some parts. Each part is preceded by its length, so that the encoding is unambiguous.
func computeMAC(key string, parts ...string) string {
	mac := hmac.New(sha256.New, []byte(key))
	buffer := make([]byte, 0, 512)
	for _, part := range parts {
		buffer = strconv.AppendInt(buffer, int64(len(part)), 10)
		buffer = append(buffer, ':')
		buffer = append(buffer, part...)
	}
	mac.Write(buffer)
	return hex.EncodeToString(mac.Sum(nil))
}

// verifyMAC returns the key that matches a MAC, or false if none does. It compares MACs in constant time.
func verifyMAC(keys []string, mac string, parts ...string) (string, bool) {
	by, found := "", false
	for _, key := range keys {
		if hmac.Equal([]byte(computeMAC(key, parts...)), []byte(mac)) {
			by, found = key, true
		}
	}
	return by, found
}

// parseFields returns the fields of a header such as "v=1, mac=00". It returns false if a key is repeated or a value is empty.
func parseFields(header string) (map[string]string, bool) {
	if len(header) > headerLimit {
		return nil, false
	}
	found := map[string]string{}
	for part := range strings.SplitSeq(header, ", ") {
		key, value, _ := strings.Cut(part, "=")
		if _, twice := found[key]; twice || key == "" || value == "" {
			return nil, false
		}
		found[key] = value
	}
	return found, true
}

// isHex reports whether a text is lower-case hex of the given length.
func isHex(text string, length int) bool {
	if len(text) != length {
		return false
	}
	for i := range len(text) {
		if c := text[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

// isName reports whether a text is a valid name of a member.
func isName(text string) bool {
	if text == "" || len(text) > nameLimit {
		return false
	}
	for i := range len(text) {
		c := text[i]
		if (c < '0' || c > '9') && (c < 'a' || c > 'z') && c != '-' && c != '_' {
			return false
		}
	}
	return true
}

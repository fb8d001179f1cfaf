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
	// nameLimit is the most bytes of a member's name: those of a DNS label.
	nameLimit = 63
	// headerLimit is the most bytes of a hop's or proof's header. The longest of this version has 300.
	headerLimit = 512
	// nonceLimit is how long a nonce is: 16 bytes in hex.
	nonceLimit = 32
	// sumLimit is how long a MAC or a sha256 is, in hex.
	sumLimit = 2 * sha256.Size
)

// computeMAC returns the MAC of the parts of a text. Each part is preceded by its length, so that no two texts have the same
// bytes.
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

// verifyMAC returns the key that a MAC was made with, and false if it is none of them. It takes as long for a wrong MAC as for a
// right one.
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

// isHex reports whether a text is lower-case hex of a length.
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

// isName reports whether a text can be a member's name.
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

// SPDX-License-Identifier: GPL-3.0-or-later

package auth

import (
	"bytes"
	"encoding/base64"
	"strings"
)

const (
	// maxHeader is the maximum length of an Authorization header, in bytes.
	maxHeader = 1024
	// maxPassword is the maximum length of a password, in bytes. bcrypt reads no more; a longer password is refused,
	// never truncated.
	maxPassword = 72
)

// credential is a decoded Authorization header. Its slices share the memory of pair, which is "name:password".
type credential struct {
	pair, name, password []byte
}

// strictBase64 accepts only one encoding of the same bytes.
var strictBase64 = base64.StdEncoding.Strict()

// parseBasic returns the credential in an Authorization header. It returns false if bcrypt could not accept the
// credential.
func parseBasic(header string) (credential, bool) {
	if len(header) > maxHeader {
		return credential{}, false
	}
	scheme, encoded, _ := strings.Cut(header, " ")
	encoded = strings.TrimLeft(encoded, " ")
	// The decoder ignores line breaks.
	if !strings.EqualFold(scheme, "Basic") || strings.ContainsAny(encoded, "\r\n") {
		return credential{}, false
	}
	pair, err := strictBase64.DecodeString(encoded)
	if err != nil || bytes.IndexByte(pair, 0) >= 0 {
		return credential{}, false
	}
	name, password, found := bytes.Cut(pair, []byte(":"))
	if !found || len(name) == 0 || len(password) == 0 || len(password) > maxPassword {
		return credential{}, false
	}
	return credential{pair: pair, name: name, password: password}, true
}

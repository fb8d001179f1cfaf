// SPDX-License-Identifier: GPL-3.0-or-later

package auth

import (
	"bytes"
	"encoding/base64"
	"strings"
)

const (
	// maxHeader is the most bytes of an Authorization header.
	maxHeader = 1024
	// maxPassword is the most bytes that bcrypt reads. A longer password is refused, never truncated.
	maxPassword = 72
)

// credential is a decoded header. Its slices share the memory of pair, which is name, colon and password.
type credential struct {
	pair, name, password []byte
}

// strictBase64 refuses a second spelling of the same bytes.
var strictBase64 = base64.StdEncoding.Strict()

// parseBasic returns the credential of an Authorization header, or false if bcrypt could not accept it anyway.
func parseBasic(header string) (credential, bool) {
	if len(header) > maxHeader {
		return credential{}, false
	}
	scheme, encoded, _ := strings.Cut(header, " ")
	encoded = strings.TrimLeft(encoded, " ")
	// The decoder would skip line breaks.
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

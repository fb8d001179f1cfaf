// SPDX-License-Identifier: GPL-3.0-or-later

package auth

import (
	"crypto/hmac"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"unicode"
)

// Bcrypt costs that are accepted; module htpasswd of this collection has the same limits. A check with cost 17 takes
// about 10 s. With a higher cost, one user would delay the first requests of all others.
const (
	minCost = 4
	maxCost = 17
)

var (
	errNoUser        = errors.New("has no users; add one, for example with: htpasswd -nB USER")
	errMalformedLine = errors.New("is not USER:HASH; create the line, for example with: htpasswd -nB USER")
	errInvalidName   = errors.New("has a control character or byte order mark in the user name; save the file as plain UTF-8 without a byte order mark")
	errInvalidHash   = errors.New("has no valid bcrypt hash (60 characters, beginning with $2y$, $2b$ or $2a$); create the line, for example with: htpasswd -nB USER")
	errInvalidCost   = fmt.Errorf("has a bcrypt cost outside of %d to %d; create the line, for example with: htpasswd -nB -C 10 USER", minCost, maxCost)
)

// user is one line of the file. A changed hash makes a new user, which discards the proof and lane of the old hash.
type user struct {
	name, hash string
	// proof is the credential that bcrypt has accepted for this hash, or nil.
	proof atomic.Pointer[digest]
	// lane holds the waiting credentials until there is a proof.
	lane lane
}

// proves reports whether the credential is the user's proof.
func (u *user) proves(id digest) bool {
	if u == nil {
		return false
	}
	proof := u.proof.Load()
	return proof != nil && hmac.Equal(proof[:], id[:])
}

// users is one version of the file. It is immutable.
type users struct {
	byName map[string]*user
	// decoy is a hash for checks that cannot succeed. It has the most common cost.
	decoy string
}

// newUsers returns the users in lines. It keeps users of the old version whose hash is unchanged.
func newUsers(lines map[string]string, old *users) *users {
	u := &users{byName: make(map[string]*user, len(lines)), decoy: decoyHash(lines)}
	for name, hash := range lines {
		if old != nil {
			if same := old.byName[name]; same != nil && same.hash == hash {
				u.byName[name] = same
				continue
			}
		}
		u.byName[name] = &user{name: name, hash: hash, lane: newLane(&userLimits)}
	}
	return u
}

// decoyHash returns a random hash with the most common cost. Of two equally common costs it uses the higher one.
func decoyHash(lines map[string]string) string {
	var count [maxCost + 1]int
	common := minCost
	for _, hash := range lines {
		if n, err := parseCost(hash); err == nil {
			count[n]++
		}
	}
	for n := range count {
		if count[n] > 0 && count[n] >= count[common] {
			common = n
		}
	}
	var random [39]byte
	_, _ = rand.Read(random[:]) // never fails
	return fmt.Sprintf("$2b$%02d$%s%s", common, bcryptBase64.EncodeToString(random[:16]), bcryptBase64.EncodeToString(random[16:]))
}

// parseHtpasswd returns the hash of each user. The last line of a user wins, as in Apache and distribution. Errors
// contain the line number, but never the content of the line.
func parseHtpasswd(content string) (map[string]string, error) {
	lines := map[string]string{}
	number := 0
	for line := range strings.Lines(content) {
		number++
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		name, hash, _ := strings.Cut(line, ":")
		if err := checkLine(name, hash); err != nil {
			return nil, fmt.Errorf("line %d %w", number, err)
		}
		lines[name] = hash
	}
	if len(lines) == 0 {
		return nil, errNoUser
	}
	return lines, nil
}

func checkLine(name, hash string) error {
	if name == "" || hash == "" {
		return errMalformedLine
	}
	if strings.ContainsFunc(name, func(r rune) bool { return unicode.IsControl(r) || r == '\ufeff' }) {
		return errInvalidName
	}
	_, err := parseCost(hash)
	return err
}

// parseCost returns the cost of a bcrypt hash, or an error if the hash is not valid.
func parseCost(hash string) (int, error) {
	if len(hash) != 60 || hash[:2] != "$2" || !strings.Contains("aby", hash[2:3]) || hash[3] != '$' || hash[6] != '$' {
		return 0, errInvalidHash
	}
	for _, c := range []byte(hash[7:]) {
		if !('.' <= c && c <= '9' || 'A' <= c && c <= 'Z' || 'a' <= c && c <= 'z') {
			return 0, errInvalidHash
		}
	}
	tens, ones := hash[4]-'0', hash[5]-'0'
	if tens > 9 || ones > 9 {
		return 0, errInvalidHash
	}
	n := int(tens)*10 + int(ones)
	if n < minCost || n > maxCost {
		return 0, errInvalidCost
	}
	return n, nil
}

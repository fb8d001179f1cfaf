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

// The bcrypt costs that are accepted, which are those of the collection's module htpasswd. A check of cost 17 takes
// about 10 s; with a higher one a single user would hold up everybody's first contact.
const (
	minCost = 4
	maxCost = 17
)

var (
	errNoUser        = errors.New("holds no user; add one, for example: htpasswd -nB USER")
	errMalformedLine = errors.New("is not USER:HASH; create the line with: htpasswd -nB USER")
	errInvalidName   = errors.New("has a user name with a control character or byte order mark; save the file as plain UTF-8 without one")
	errInvalidHash   = errors.New("does not hold a bcrypt hash, which is $2y$, $2b$ or $2a$ and 60 characters long; create the line with: htpasswd -nB USER")
	errInvalidCost   = fmt.Errorf("has a bcrypt cost that is not from %d to %d; create the line with: htpasswd -nB -C 10 USER", minCost, maxCost)
)

// user is one user's line. A changed hash makes a new user, so what belongs to the old hash goes with it.
type user struct {
	name, hash string
	// proof is the credential that bcrypt accepted for this hash; nil before that.
	proof atomic.Pointer[digest]
	// lane is where credentials wait as long as there is no proof.
	lane lane
}

// proves reports whether this credential is proven for the user's hash.
func (u *user) proves(id digest) bool {
	if u == nil {
		return false
	}
	proof := u.proof.Load()
	return proof != nil && hmac.Equal(proof[:], id[:])
}

// users is one version of the file. It never changes.
type users struct {
	byName map[string]*user
	// decoy is a hash for checks that cannot succeed; its cost is the one that most users have.
	decoy string
}

// newUsers returns the users of these lines, and keeps those of the old version whose hash is the same.
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

// decoyHash returns a random hash of the most common cost, or of the higher one if two are equally common.
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
	_, _ = rand.Read(random[:]) // it never fails
	return fmt.Sprintf("$2b$%02d$%s%s", common, bcryptBase64.EncodeToString(random[:16]), bcryptBase64.EncodeToString(random[16:]))
}

// parseHtpasswd returns each user's hash. The last line of a user wins, as in Apache and distribution. An error names
// the line by its number, never by its content.
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

// parseCost returns the cost of a bcrypt hash, or an error if the text is not a whole one.
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

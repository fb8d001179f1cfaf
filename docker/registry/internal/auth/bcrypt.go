// SPDX-License-Identifier: GPL-3.0-or-later

package auth

import (
	"context"
	"crypto/subtle"
	"encoding/base64"
	"time"

	"golang.org/x/crypto/blowfish" //lint:ignore SA1019 bcrypt is made of it
)

const (
	// slice is how long a check computes before it pauses. Go's scheduler would preempt it only after 10 ms.
	slice = time.Millisecond
	// pause must be a sleep: after runtime.Gosched, a single processor resumes the check without polling the network.
	// It is short, since there may be nothing else to run.
	pause = 20 * time.Microsecond
)

// bcryptBase64 is the alphabet of bcrypt hashes.
var bcryptBase64 = base64.NewEncoding("./ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789").
	WithPadding(base64.NoPadding)

// matches reports whether the password matches the bcrypt hash, which parseCost must have accepted. It is
// bcrypt.CompareHashAndPassword of golang.org/x/crypto, but pauses every millisecond and stops when ctx is done: on one
// processor, the original adds 10 ms to every step of all other requests.
func matches(ctx context.Context, hash string, password []byte) bool {
	rounds, err := parseCost(hash)
	if err != nil || len(password) > maxPassword {
		return false
	}
	salt, err := bcryptBase64.DecodeString(hash[7:29])
	if err != nil {
		return false
	}
	key := append(password[:len(password):len(password)], 0)
	cipher, err := blowfish.NewSaltedCipher(key, salt)
	if err != nil {
		return false
	}
	began := time.Now()
	for range 1 << rounds {
		blowfish.ExpandKey(key, cipher)
		blowfish.ExpandKey(salt, cipher)
		if time.Since(began) < slice {
			continue
		}
		time.Sleep(pause)
		if ctx.Err() != nil {
			return false
		}
		began = time.Now()
	}
	text := []byte("OrpheanBeholderScryDoubt")
	for i := 0; i < len(text); i += blowfish.BlockSize {
		for range 64 {
			cipher.Encrypt(text[i:i+blowfish.BlockSize], text[i:i+blowfish.BlockSize])
		}
	}
	// Every implementation of bcrypt omits the last of the 24 bytes.
	sum := bcryptBase64.EncodeToString(text[:23])
	return subtle.ConstantTimeCompare([]byte(sum), []byte(hash[29:])) == 1
}

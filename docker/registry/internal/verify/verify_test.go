// SPDX-License-Identifier: GPL-3.0-or-later

package verify

import (
	"context"
	"strings"
	"testing"

	repositorymiddleware "github.com/distribution/distribution/v3/registry/middleware/repository"
)

func TestRefusesOptions(t *testing.T) {
	for name, options := range map[string]map[string]any{"": nil, `"hold"`: {"hold": 1}} {
		_, err := repositorymiddleware.Get(context.Background(), "verify", options, nil)
		if (err != nil) != (name != "") || err != nil && !strings.Contains(err.Error(), name) {
			t.Errorf("%v: %v", options, err)
		}
	}
}

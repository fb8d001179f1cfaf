// SPDX-License-Identifier: GPL-3.0-or-later

package upstream

import (
	"context"

	"oras.land/oras-go/v2/registry/remote/auth"
)

// withScope returns a context in which a token for pulls of a repository is asked for.
func withScope(ctx context.Context, host, repository string) context.Context {
	return auth.WithScopesForHost(ctx, host, auth.ScopeRepository(repository, auth.ActionPull))
}

// login returns the credential for the upstream. If the helper gives none the upstream is asked without one, since what is
// public can still be pulled: that is counted, and a 401 or 403 then means that this cache has no credential.
func (u *Upstream) login(ctx context.Context, server string) (auth.Credential, error) {
	if u.credential == nil {
		return auth.EmptyCredential, nil
	}
	given, err := u.credential.get(ctx, server)
	if err == nil {
		return given, nil
	}
	u.count.anonymous.Inc()
	if f := tokenFetchOf(ctx); f != nil {
		f.anonymous = true
	}
	return auth.EmptyCredential, nil
}

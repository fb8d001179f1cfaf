// SPDX-License-Identifier: GPL-3.0-or-later

package upstream

import (
	"context"
	"strings"
	"sync"

	lru "github.com/hashicorp/golang-lru/v2"
	"oras.land/oras-go/v2/errdef"
	"oras.land/oras-go/v2/registry/remote/auth"
)

// tokensLimit is the maximum number of tokens to keep. Without a limit, clients could fill the memory, since they may
// request any repository.
const tokensLimit = 1024

// tokens caches the upstream's tokens by scope. A token is used until the upstream rejects it with a 401. Unlike
// oras-go's cache, it is bounded, does not keep anonymous tokens that were issued because the helper failed, and does
// not cancel a fetch with the request that started it.
type tokens struct {
	spawn  func(func())
	mu     sync.Mutex
	scheme auth.Scheme
	held   *lru.Cache[string, string]
	fetch  map[string]*tokenFetch
}

// tokenFetch is one request for a token. It is stored in the context of that request.
type tokenFetch struct {
	done      chan struct{}
	token     string
	err       error
	anonymous bool // the credential helper failed
}

type tokenFetchKey struct{}

// tokenFetchOf returns the tokenFetch of a context, or nil.
func tokenFetchOf(ctx context.Context) *tokenFetch {
	f, _ := ctx.Value(tokenFetchKey{}).(*tokenFetch)
	return f
}

func newTokens(spawn func(func())) *tokens {
	held, err := lru.New[string, string](tokensLimit)
	if err != nil {
		panic(err) // cannot happen: the limit is above 0
	}
	return &tokens{spawn: spawn, held: held, fetch: map[string]*tokenFetch{}}
}

// GetScheme returns the scheme of the last challenge.
func (t *tokens) GetScheme(context.Context, string) (auth.Scheme, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.scheme == auth.SchemeUnknown {
		return t.scheme, errdef.ErrNotFound
	}
	return t.scheme, nil
}

// GetToken returns the token for a scope.
func (t *tokens) GetToken(_ context.Context, _ string, scheme auth.Scheme, key string) (string, error) {
	token, ok := t.held.Get(scheme.String() + " " + key)
	if !ok {
		return "", errdef.ErrNotFound
	}
	return token, nil
}

// Set fetches a token. Concurrent callers share one fetch of the same token.
func (t *tokens) Set(
	ctx context.Context, _ string, scheme auth.Scheme, key string, fetch func(context.Context) (string, error),
) (string, error) {
	key = scheme.String() + " " + key
	t.mu.Lock()
	t.scheme = scheme
	f := t.fetch[key]
	if f == nil {
		f = &tokenFetch{done: make(chan struct{})}
		t.fetch[key] = f
		t.spawn(func() { t.run(context.WithValue(context.WithoutCancel(ctx), tokenFetchKey{}, f), f, key, fetch) })
	}
	t.mu.Unlock()
	select {
	case <-f.done:
	case <-ctx.Done():
		return "", context.Cause(ctx)
	}
	if x := exchangeOf(ctx); x != nil && f.anonymous {
		x.anonymous.Store(true)
	}
	return f.token, f.err
}

// run fetches a token. It has no time limit except those of the helper and the request.
func (t *tokens) run(ctx context.Context, f *tokenFetch, key string, fetch func(context.Context) (string, error)) {
	f.token, f.err = fetch(ctx)
	t.mu.Lock()
	delete(t.fetch, key)
	t.mu.Unlock()
	if f.err == nil && !f.anonymous {
		t.held.Add(key, f.token)
	}
	close(f.done)
}

// clear drops all tokens.
func (t *tokens) clear() { t.held.Purge() }

// forget drops the tokens for a repository.
func (t *tokens) forget(repository string) {
	scope := " " + auth.ScopeRepository(repository, auth.ActionPull)
	for _, key := range t.held.Keys() {
		if strings.Contains(key+" ", scope+" ") {
			t.held.Remove(key)
		}
	}
}

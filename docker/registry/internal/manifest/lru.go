// SPDX-License-Identifier: GPL-3.0-or-later

package manifest

import (
	"container/list"
	"maps"
	"weak"
)

// overhead is the memory of an entry besides its body, in bytes: key, lists, answer and header.
const overhead = 1024

// lru is a cache with a limit in bytes that evicts the least recently used values. It is not safe for concurrent use.
type lru[K comparable, V any] struct {
	limit int64
	used  int64
	items map[K]*list.Element
	order *list.List // *item, most recently used first
}

type item[K comparable, V any] struct {
	key   K
	value V
	cost  int64
}

func newLRU[K comparable, V any](limit int64) *lru[K, V] {
	return &lru[K, V]{limit: limit, items: map[K]*list.Element{}, order: list.New()}
}

// get returns a value, and marks it as used.
func (m *lru[K, V]) get(key K) (value V, ok bool) {
	e := m.items[key]
	if e == nil {
		return value, false
	}
	m.order.MoveToFront(e)
	return e.Value.(*item[K, V]).value, true
}

// put adds or replaces a value with a body of size bytes. It does not keep a value larger than a quarter of the limit,
// which would evict many others.
func (m *lru[K, V]) put(key K, value V, size int) (kept bool) {
	m.remove(key)
	i := &item[K, V]{key, value, int64(size) + overhead}
	if i.cost > m.limit/4 {
		return false
	}
	m.items[key] = m.order.PushFront(i)
	m.used += i.cost
	for m.used > m.limit {
		m.remove(m.order.Back().Value.(*item[K, V]).key)
	}
	return true
}

// remove removes a value.
func (m *lru[K, V]) remove(key K) {
	e := m.items[key]
	if e == nil {
		return
	}
	m.used -= e.Value.(*item[K, V]).cost
	m.order.Remove(e)
	delete(m.items, key)
}

// sweepEvery is how many values are added to a weakMap between two removals of unused values.
const sweepEvery = 64

// weakMap finds values that are in use elsewhere, through weak pointers. It is not safe for concurrent use.
type weakMap[K comparable, V any] struct {
	items map[K]weak.Pointer[V]
	added int
}

func (p *weakMap[K, V]) get(key K) *V { return p.items[key].Value() }

func (p *weakMap[K, V]) put(key K, value *V) {
	if p.added++; p.added%sweepEvery == 0 {
		maps.DeleteFunc(p.items, func(_ K, v weak.Pointer[V]) bool { return v.Value() == nil })
	}
	p.items[key] = weak.Make(value)
}

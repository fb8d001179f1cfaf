// SPDX-License-Identifier: GPL-3.0-or-later

package manifest

import "testing"

func TestMemoryDropsTheLeastRecentlyUsed(t *testing.T) {
	const size = 1000
	m := newLRU[int, string](4 * (size + overhead))
	for i := range 4 {
		m.put(i, "v", size)
	}
	m.get(0)
	m.put(4, "v", size)
	for i, want := range []bool{true, false, true, true, true} {
		if _, ok := m.get(i); ok != want {
			t.Errorf("%d: %v", i, ok)
		}
	}
	m.put(2, "new", 10)
	if v, _ := m.get(2); v != "new" || m.used != 3*(size+overhead)+10+overhead {
		t.Errorf("%s, %d bytes", v, m.used)
	}
	m.put(2, "large", size+1) // not kept, and removes the value that it replaces
	if _, ok := m.get(2); ok {
		t.Error("larger than its share")
	}
	for i := range 5 {
		m.remove(i)
	}
	if m.used != 0 || m.order.Len() != 0 {
		t.Errorf("%d bytes, %d entries", m.used, m.order.Len())
	}
}

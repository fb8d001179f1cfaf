// SPDX-License-Identifier: GPL-3.0-or-later

package config

import (
	"encoding"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// page is the reference of all configuration keys.
var page = filepath.Join("..", "..", "..", "..", "docs", "usage", "configuration.md")

// code matches a table cell with only a code span.
var code = regexp.MustCompile("^`([^`]+)`$")

// row matches a table row: the key in the first column, and the default in the last.
var row = regexp.MustCompile("(?m)^\\| `([a-z_.\\[\\]]+)` \\| .+ \\| (.+) \\|$")

// scalars collects the scalar keys with their defaults in YAML form, or "" without a default.
func scalars(key string, v reflect.Value, into map[string]string) {
	if set, ok := v.Addr().Interface().(defaulter); ok {
		set.setDefaults()
	}
	for i := range v.NumField() {
		name, _, _ := strings.Cut(v.Type().Field(i).Tag.Get("yaml"), ",")
		name = strings.TrimPrefix(key+"."+name, ".")
		field := v.Field(i)
		if field.Kind() == reflect.Pointer {
			field = reflect.New(field.Type().Elem()).Elem()
		}
		switch value := field.Addr().Interface().(type) {
		case *Auth:
			into[name+".htpasswd"] = ""
			continue
		case *time.Duration:
			if into[name] = ""; *value != 0 {
				into[name] = value.String()
			}
			continue
		case encoding.TextUnmarshaler: // a size, or which requests are logged
			text := field.Addr().Interface().(fmt.Stringer).String()
			if into[name] = text; text == "0" {
				into[name] = ""
			}
			continue
		}
		switch field.Kind() {
		case reflect.Struct:
			scalars(name, field, into)
		case reflect.Slice:
			scalars(name+"[]", reflect.New(field.Type().Elem()).Elem(), into)
		default:
			if into[name] = ""; !field.IsZero() {
				into[name] = fmt.Sprint(field.Interface())
			}
		}
	}
}

// same returns a default of the page in the form that the program writes.
func same(text string) string {
	if d, err := time.ParseDuration(text); err == nil {
		return d.String()
	}
	return text
}

func TestThePageNamesEveryKeyWithItsDefault(t *testing.T) {
	content, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	keys := map[string]string{}
	scalars("", reflect.ValueOf(defaultConfig()).Elem(), keys)
	keys["peers.name"] = "" // the host's
	rest, seen := string(content), map[string]bool{}
	for _, found := range row.FindAllStringSubmatch(rest[strings.Index(rest, "## listen"):], -1) {
		key, given := found[1], found[2]
		want, known := keys[key]
		value := ""
		if word := code.FindStringSubmatch(given); word != nil {
			value = same(word[1])
		}
		switch {
		case seen[key]:
			t.Errorf("%s: the page has it twice", key)
		case !known && !slices.Contains([]string{"upstreams[].credential", "peers.members"}, key):
			t.Errorf("%s: the program has no such key", key)
		case want != "" && value != want:
			t.Errorf("%s: the page has the default %s, the program %s", key, given, want)
		case known && want == "" && value != "" && key != "upstreams[].url":
			t.Errorf("%s: the page has the default %s, the program none", key, given)
		}
		seen[key] = true
	}
	for key := range keys {
		if !seen[key] {
			t.Errorf("%s: the page does not name it", key)
		}
	}
	if len(keys) < 30 {
		t.Errorf("%d keys were found in the code", len(keys))
	}
}

// TestTheExampleOfThePageIsValid checks that the example of the page is a complete configuration.
func TestTheExampleOfThePageIsValid(t *testing.T) {
	content, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	_, example, _ := strings.Cut(string(content), "```yaml\n")
	example, _, _ = strings.Cut(example, "```")
	if c, err := Parse([]byte(example)); err != nil || c.Upstreams[0].Host == "" {
		t.Errorf("got %+v, %v", c, err)
	}
}

// SPDX-License-Identifier: GPL-3.0-or-later

package config

import (
	"encoding"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// decoder fills structs from YAML nodes. Unlike the decoder of package yaml, it continues after a problem, and its
// errors contain the full path of a key.
type decoder struct {
	errs Errors
	seen map[string]int // the line of every key in the file
}

// A nodeDecoder has more than one form in YAML, and decodes itself.
type nodeDecoder interface {
	decode(d *decoder, key string, node *yaml.Node)
}

// A defaulter is an optional struct, or an element of a list, that has defaults.
type defaulter interface{ setDefaults() }

// add adds an error about a node.
func (d *decoder) add(node *yaml.Node, key, what, got, fix string) {
	d.errs = append(d.errs, Error{Key: key, What: what, Got: got, Fix: fix, Line: node.Line})
}

// value decodes a node into a settable value. Errors contain the example.
func (d *decoder) value(key, example string, node *yaml.Node, v reflect.Value) {
	d.seen[key] = node.Line
	switch {
	case node.Kind == yaml.AliasNode || node.Anchor != "":
		d.add(node, key, "has an anchor or an alias", "", "write the value itself, for example "+example)
		return
	case node.ShortTag() == "!!null":
		d.add(node, key, "is empty", "", "remove the key or set it, for example "+example)
		return
	}
	if special, ok := v.Addr().Interface().(nodeDecoder); ok {
		special.decode(d, key, node)
		return
	}
	if text, ok := v.Addr().Interface().(encoding.TextUnmarshaler); ok {
		d.scalar(key, example, "a word or a size", node, []string{"!!str", "!!int"}, text.UnmarshalText)
		return
	}
	if duration, ok := v.Addr().Interface().(*time.Duration); ok {
		d.scalar(key, example, "a duration with its unit", node, []string{"!!str"}, func(text []byte) (err error) {
			if *duration, err = time.ParseDuration(string(text)); err != nil || *duration < 0 {
				err = fmt.Errorf("must be a duration of at least 0 with its unit (ms, s, m or h)")
			}
			return err
		})
		return
	}
	switch v.Kind() {
	case reflect.String:
		d.scalar(key, example, "text", node, []string{"!!str"}, func(text []byte) error {
			v.SetString(string(text))
			return nil
		})
	case reflect.Int:
		d.scalar(key, example, "a whole number", node, []string{"!!int"}, func(text []byte) error {
			n, err := strconv.ParseInt(string(text), 10, 32)
			if err != nil {
				return fmt.Errorf("must be a whole number below 2^31 in decimal digits")
			}
			v.SetInt(n)
			return nil
		})
	case reflect.Bool:
		d.scalar(key, example, "true or false", node, []string{"!!bool"}, func(text []byte) error {
			v.SetBool(string(text) == "true")
			if s := string(text); s != "true" && s != "false" {
				return fmt.Errorf("must be true or false")
			}
			return nil
		})
	case reflect.Pointer:
		element := reflect.New(v.Type().Elem())
		setDefaults(element)
		d.value(key, example, node, element.Elem())
		v.Set(element)
	case reflect.Slice:
		d.list(key, example, node, v)
	case reflect.Struct:
		d.mapping(key, example, node, v)
	default:
		panic("config: no decoder for " + v.Type().String()) // a bug in this package
	}
}

// scalar decodes a node that must be a scalar with one of the tags.
func (d *decoder) scalar(
	key, example, kind string, node *yaml.Node, tags []string, set func([]byte) error,
) {
	if node.Kind != yaml.ScalarNode || !slices.Contains(tags, node.ShortTag()) {
		d.add(node, key, "must be "+kind, describe(node), "write, for example, "+example)
		return
	}
	if err := set([]byte(node.Value)); err != nil {
		d.add(node, key, err.Error(), node.Value, "write, for example, "+example)
	}
}

// list decodes a node that must be a sequence.
func (d *decoder) list(key, example string, node *yaml.Node, v reflect.Value) {
	if node.Kind != yaml.SequenceNode {
		d.add(node, key, "must be a list", describe(node), "write, for example, "+example)
		return
	}
	list := reflect.MakeSlice(v.Type(), len(node.Content), len(node.Content))
	for i, child := range node.Content {
		setDefaults(list.Index(i).Addr())
		d.value(fmt.Sprintf("%s[%d]", key, i), example, child, list.Index(i))
	}
	v.Set(list)
}

// mapping decodes a node that must be a mapping with the keys of a struct.
func (d *decoder) mapping(key, example string, node *yaml.Node, v reflect.Value) {
	if node.Kind != yaml.MappingNode {
		d.add(node, key, "must be a mapping of keys to values", describe(node), "write, for example, "+example)
		return
	}
	fields := map[string]reflect.StructField{}
	var names []string
	for field := range v.Type().Fields() {
		name, _, _ := strings.Cut(field.Tag.Get("yaml"), ",")
		fields[name] = field
		names = append(names, name)
	}
	given := map[string]bool{}
	for i := 0; i+1 < len(node.Content); i += 2 {
		name, child := node.Content[i], node.Content[i+1]
		path := joinKey(key, name.Value)
		field, known := fields[name.Value]
		switch {
		case name.Kind != yaml.ScalarNode || !known:
			d.add(name, path, "is not a known key", "", suggestFix(name.Value, names))
		case given[name.Value]:
			d.add(name, path, "is set twice", "", "keep one of the two")
		default:
			given[name.Value] = true
			d.value(path, field.Tag.Get("example"), child, v.FieldByIndex(field.Index))
		}
	}
}

func setDefaults(v reflect.Value) {
	if d, ok := v.Interface().(defaulter); ok {
		d.setDefaults()
	}
}

// joinKey returns the path of a key below another key.
func joinKey(key, name string) string {
	if len(name) > maxGot {
		name = name[:maxGot] + "…"
	}
	if strings.ContainsFunc(name, func(r rune) bool { return r < ' ' || r == 0x7f || r == '\ufffd' }) {
		name = strconv.Quote(name)
	}
	if key == "" {
		return name
	}
	return key + "." + name
}

// describe returns a description of a node of the wrong kind, for an error.
func describe(node *yaml.Node) string {
	switch node.Kind {
	case yaml.ScalarNode:
		return node.Value
	case yaml.SequenceNode:
		return "a list"
	case yaml.MappingNode:
		return "a mapping"
	}
	return "an alias"
}

// suggestFix returns the fix for an unknown key: the most similar known key, or all known keys.
func suggestFix(name string, names []string) string {
	slices.Sort(names)
	for _, known := range names {
		if len(name) <= 2*len(known) && editDistance(name, known) <= 2 {
			return fmt.Sprintf("write %s, or remove the key", known)
		}
	}
	return "use one of " + strings.Join(names, ", ")
}

// editDistance returns the Levenshtein distance of a and b, in bytes.
func editDistance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

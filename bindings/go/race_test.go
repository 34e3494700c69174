//go:build race

package attn_test

const raceEnabled = true

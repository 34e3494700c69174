// outside_test.go: a program of its own that uses the installed library, and one that meets an older
// library than the one that it was built with.

package attn_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

const outsideProgram = `package main

import (
	"errors"
	"fmt"

	"attn"
)

func main() {
	x, o := []float32{1, 2}, make([]float32, 2)
	view := func(x []float32) attn.Tensor { return attn.View(x, 1, 1, 2, 1) }
	err := attn.Attention(view(x), view(x), view(x), view(o), attn.Causal)
	if errors.Is(err, attn.ErrVersion) {
		_, again := attn.NewContext(attn.ContextOptions{})
		fmt.Println(err, again)
		return
	}
	fmt.Println(err, o[0])
}
`

// run runs a command that must succeed, in a folder, with more environment.
func run(t *testing.T, folder string, environment []string, command ...string) string {
	t.Helper()
	c := exec.Command(command[0], command[1:]...)
	c.Dir, c.Env = folder, append(os.Environ(), environment...)
	output, err := c.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(command, " "), err, output)
	}
	return string(output)
}

func TestFreshProject(t *testing.T) {
	binding, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	folder := t.TempDir()
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(folder, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("main.go", outsideProgram)
	run(t, folder, nil, "go", "mod", "init", "example.org/program")
	run(t, folder, nil, "go", "mod", "edit", "-require=attn@v0.0.0", "-replace=attn="+binding)
	run(t, folder, nil, "go", "build", "-o", "program", ".")
	if got := run(t, folder, nil, "./program"); got != "<nil> 1\n" {
		t.Fatal(got)
	}

	// What an older library has: its version alone.
	write("old.c", `int attn_version(void) { return 0; }
const char* attn_version_string(void) { return "0.0.0"; }
`)
	write("old.map", "ATTN_0 { global: attn_*; local: *; };\n")
	soname := ""
	for _, line := range strings.Split(run(t, folder, nil, "readelf", "-d", "program"), "\n") {
		if strings.Contains(line, "NEEDED") && strings.Contains(line, "libattn") {
			soname = line[strings.Index(line, "[")+1 : strings.Index(line, "]")]
		}
	}
	run(t, folder, nil, "cc", "-shared", "-fPIC", "-Wl,--version-script=old.map", "-o", soname, "old.c")
	got := run(t, folder, []string{"LD_LIBRARY_PATH=" + folder}, "./program")
	if strings.Count(got, "libattn is version 0.0.0; this program was compiled for") != 2 {
		t.Fatal(got)
	}
}

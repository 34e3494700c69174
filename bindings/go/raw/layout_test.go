// layout_test.go: what Go takes for a size, an offset or a value is what the C compiler says of the
// header that the package was built with.

package raw_test

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unsafe"

	"attn"
	"attn/raw"
)

// header is attn.h without comments.
func header(t *testing.T) string {
	t.Helper()
	folder, err := exec.Command("pkg-config", "--variable=includedir", "attn").Output()
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(strings.TrimSpace(string(folder)), "attn", "attn.h"))
	if err != nil {
		t.Fatal(err)
	}
	return regexp.MustCompile(`(?s)/\*.*?\*/`).ReplaceAllString(string(text), "")
}

// askC evaluates expressions of C.
func askC(t *testing.T, expressions []string) map[string]int64 {
	t.Helper()
	source := "#include <attn/attn.h>\n#include <stdio.h>\nint main(void) {\n"
	for _, e := range expressions {
		source += fmt.Sprintf("printf(\"%%lld\\n\", (long long)(%s));\n", e)
	}
	flags, err := exec.Command("pkg-config", "--cflags", "attn").Output()
	if err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(t.TempDir(), "ask")
	compile := exec.Command("cc", append(strings.Fields(string(flags)), "-x", "c", "-", "-o", program)...)
	compile.Stdin = strings.NewReader(source + "}\n")
	if output, err := compile.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, output)
	}
	output, err := exec.Command(program).Output()
	if err != nil {
		t.Fatal(err)
	}
	answers := map[string]int64{}
	for i, line := range strings.Fields(string(output)) {
		value, err := strconv.ParseInt(line, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		answers[expressions[i]] = value
	}
	if len(answers) != len(expressions) {
		t.Fatalf("%d answers to %d questions", len(answers), len(expressions))
	}
	return answers
}

// TestMirrors: the two structs that Go fills itself.
func TestMirrors(t *testing.T) {
	var expressions []string
	want := map[string]int64{}
	expect := func(expression string, value uintptr) {
		expressions = append(expressions, expression)
		want[expression] = int64(value)
	}
	for name, mirror := range map[string]any{"attn_tensor": raw.TensorView{}, "attn_error": raw.Failure{}} {
		goType := reflect.TypeOf(mirror)
		expect("sizeof("+name+")", goType.Size())
		fields := regexp.MustCompile(`(?s)typedef struct ` + name + ` \{(.*?)\}`).FindStringSubmatch(header(t))[1]
		names := regexp.MustCompile(`(\w+)(?:\[\w+\])?;`).FindAllStringSubmatch(fields, -1)
		if len(names) != goType.NumField() {
			t.Fatalf("%s has %d fields in C, %d in Go", name, len(names), goType.NumField())
		}
		for i, field := range names {
			if !strings.EqualFold(strings.ReplaceAll(field[1], "_", ""), goType.Field(i).Name) {
				t.Errorf("%s.%s is called %s", name, field[1], goType.Field(i).Name)
			}
			expect(fmt.Sprintf("offsetof(%s, %s)", name, field[1]), goType.Field(i).Offset)
			expect(fmt.Sprintf("sizeof(((%s*)0)->%s)", name, field[1]), goType.Field(i).Type.Size())
		}
	}
	for expression, value := range askC(t, expressions) {
		if value != want[expression] {
			t.Errorf("%s is %d in C, %d in Go", expression, value, want[expression])
		}
	}
}

// TestConfigs writes each number of each config struct through its setter, and finds it, and nothing
// else, where the C compiler says that the field lies.
func TestConfigs(t *testing.T) {
	fieldsOf := func(name string) [][]string {
		body := regexp.MustCompile(`(?s)typedef struct ` + name + ` \{(.*?)\n\} `).FindStringSubmatch(header(t))[1]
		return regexp.MustCompile(`(?m)^\s+(u?int\d+_t|size_t|float|attn_(?:dtype|isa|layout|alignment|plan_kind|plan_flags|features|device_type)) (\w+);`).FindAllStringSubmatch(body, -1)
	}
	fields := 0
	for name, object := range map[string]any{
		"attn_allocator": raw.NewAttn_allocator(), "attn_executor": raw.NewAttn_executor(),
		"attn_context_config": raw.NewAttn_context_config(), "attn_plan_config": raw.NewAttn_plan_config(),
		"attn_run_args": raw.NewAttn_run_args(), "attn_merge_args": raw.NewAttn_merge_args(),
		"attn_context_info": raw.NewAttn_context_info(), "attn_isa_info": raw.NewAttn_isa_info(),
		"attn_backend_info": raw.NewAttn_backend_info(), "attn_plan_info": raw.NewAttn_plan_info(),
		"attn_autotune_info": raw.NewAttn_autotune_info(),
	} {
		expressions := []string{"sizeof(" + name + ")"}
		for _, field := range fieldsOf(name) {
			expressions = append(expressions, fmt.Sprintf("offsetof(%s, %s)", name, field[2]),
				fmt.Sprintf("sizeof(((%s*)0)->%s)", name, field[2]))
		}
		answers := askC(t, expressions)
		value := reflect.ValueOf(object)
		pointer := value.MethodByName("Swigcptr").Call(nil)[0].Interface().(uintptr)
		memory := unsafe.Slice(*(**byte)(unsafe.Pointer(&pointer)), answers[expressions[0]])
		if got := value.MethodByName("GetStruct_size").Call(nil)[0].Uint(); got != uint64(len(memory)) {
			t.Errorf("struct_size of a new %s is %d instead of %d", name, got, len(memory))
		}
		for _, field := range fieldsOf(name) {
			fields++
			offset := answers[fmt.Sprintf("offsetof(%s, %s)", name, field[2])]
			size := answers[fmt.Sprintf("sizeof(((%s*)0)->%s)", name, field[2])]
			setter := value.MethodByName("Set" + strings.ToUpper(field[2][:1]) + field[2][1:])
			clear(memory)
			ones := reflect.New(setter.Type().In(0)).Elem()
			switch {
			case ones.CanFloat():
				ones.SetFloat(-1.5)
			case ones.CanUint():
				ones.SetUint(1<<(8*size) - 1)
			default:
				ones.SetInt(-1)
			}
			setter.Call([]reflect.Value{ones})
			for i, b := range memory {
				inside := int64(i) >= offset && int64(i) < offset+size
				if !ones.CanFloat() && (b == 0xff) != inside || !inside && b != 0 {
					t.Fatalf("%s.%s: byte %d is %#x; the field has %d at %d", name, field[2], i, b, size, offset)
				}
			}
			if ones.CanFloat() && *(*float32)(unsafe.Pointer(&memory[offset])) != -1.5 {
				t.Errorf("%s.%s is not where C has it", name, field[2])
			}
		}
		clear(memory)
	}
	if fields < 60 {
		t.Errorf("only %d fields found", fields)
	}
}

// TestConstants: what package attn writes out is what C says, each of C's constants is there, and the
// raw package has the same.
func TestConstants(t *testing.T) {
	goNames := map[string]any{
		"ATTN_ERROR_INVALID_ARGUMENT": attn.ErrInvalidArgument, "ATTN_ERROR_UNSUPPORTED": attn.ErrUnsupported,
		"ATTN_ERROR_UNAVAILABLE": attn.ErrUnavailable, "ATTN_ERROR_OUT_OF_MEMORY": attn.ErrOutOfMemory,
		"ATTN_ERROR_WORKSPACE": attn.ErrWorkspace, "ATTN_ERROR_VERSION": attn.ErrVersion,
		"ATTN_ERROR_EXECUTOR": attn.ErrExecutor, "ATTN_ERROR_DEVICE": attn.ErrDevice,
		"ATTN_ERROR_INTERNAL": attn.ErrInternal,
		"ATTN_DTYPE_F32":      attn.F32, "ATTN_DTYPE_F16": attn.F16, "ATTN_DTYPE_BF16": attn.BF16,
		"ATTN_DTYPE_F8E4M3": attn.F8E4M3, "ATTN_DTYPE_I8": attn.I8, "ATTN_DTYPE_U8": attn.U8,
		"ATTN_DTYPE_I32": attn.I32, "ATTN_DTYPE_I64": attn.I64,
		"ATTN_DEVICE_CPU": attn.CPU, "ATTN_DEVICE_CUDA": attn.CUDA,
		"ATTN_CAUSAL": attn.Causal, "ATTN_WINDOW_LEFT": attn.WindowLeft, "ATTN_WINDOW_RIGHT": attn.WindowRight,
		"ATTN_SEQLENS_Q": attn.SeqlensQ, "ATTN_SEQLENS_K": attn.SeqlensK, "ATTN_Q_START": attn.QStart,
		"ATTN_K_START": attn.KStart, "ATTN_BIAS": attn.Bias, "ATTN_BIAS_RANGE": attn.BiasRange,
		"ATTN_MASK": attn.Mask, "ATTN_MASK_RANGE": attn.MaskRange, "ATTN_ALIBI": attn.Alibi,
		"ATTN_SINK": attn.Sink, "ATTN_BLOCK_MASK": attn.BlockMask,
		"ATTN_ISA_AUTO": attn.ISAAuto, "ATTN_ISA_SCALAR": attn.ISAScalar, "ATTN_ISA_AVX2": attn.ISAAVX2,
		"ATTN_ISA_AVX512": attn.ISAAVX512, "ATTN_ISA_NEON": attn.ISANEON,
		"ATTN_ISA_AVX512_BF16": attn.ISAAVX512BF16, "ATTN_ISA_AMX_BF16": attn.ISAAMXBF16, "ATTN_REQUEST_BAD_SEQLEN_Q": attn.BadSeqlenQ,
		"ATTN_REQUEST_BAD_SEQLEN_K": attn.BadSeqlenK, "ATTN_REQUEST_BAD_PAGE": attn.BadPage,
		"ATTN_REQUEST_BAD_POSITION": attn.BadPosition,
		"ATTN_LOG_DEBUG":            attn.LogDebug, "ATTN_LOG_INFO": attn.LogInfo, "ATTN_LOG_WARNING": attn.LogWarning,
		"ATTN_LAYOUT_PADDED": attn.PaddedLayout, "ATTN_LAYOUT_PACKED": attn.PackedLayout,
		"ATTN_LAYOUT_PAGED":       attn.PagedLayout,
		"ATTN_ALIGN_BOTTOM_RIGHT": attn.BottomRight, "ATTN_ALIGN_TOP_LEFT": attn.TopLeft,
		// Nothing to write out in Go: no failure, no type, the one kind of plan, a flag that is a bool.
		"ATTN_PLAN_TRUST_POINTERS": raw.ATTN_PLAN_TRUST_POINTERS,
		"ATTN_OK":                  0, "ATTN_DTYPE_INVALID": 0, "ATTN_PLAN_FORWARD": 0,
	}
	var names []string
	for _, enum := range regexp.MustCompile(`(?s)\benum \{(.*?)\}`).FindAllStringSubmatch(header(t), -1) {
		for _, name := range regexp.MustCompile(`(ATTN_\w+) =`).FindAllStringSubmatch(enum[1], -1) {
			names = append(names, name[1])
		}
	}
	if len(names) != len(goNames) {
		t.Errorf("%d constants in C, %d in Go", len(names), len(goNames))
	}
	generated := rawVariables(t)
	for name, value := range askC(t, names) {
		inGo, found := goNames[name]
		if !found || reflect.ValueOf(inGo).Convert(reflect.TypeFor[int64]()).Int() != value {
			t.Errorf("%s is %d in C, %v in Go", name, value, inGo)
		}
		if !generated[name] {
			t.Errorf("the raw package lacks %s", name)
		}
	}
	if raw.ATTN_ERROR_WORKSPACE != int(attn.ErrWorkspace) || raw.ATTN_BLOCK_MASK != int(attn.BlockMask) {
		t.Error("the raw package has other values")
	}
}

// rawVariables are the names that raw.go sets from C.
func rawVariables(t *testing.T) map[string]bool {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), "raw.go", nil, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]bool{}
	for _, declaration := range file.Decls {
		if variables, ok := declaration.(*ast.GenDecl); ok && variables.Tok == token.VAR {
			for _, spec := range variables.Specs {
				names[spec.(*ast.ValueSpec).Names[0].Name] = true
			}
		}
	}
	return names
}

// TestRunArgs: the flat call takes the tensors of attn_run_args in their order, and Go's RunArgs has
// them too and lies in memory as that of this package.
func TestRunArgs(t *testing.T) {
	body := regexp.MustCompile(`(?s)typedef struct attn_run_args \{(.*?)\n\} `).FindStringSubmatch(header(t))[1]
	interfaceFile, err := os.ReadFile("../../attn.i")
	if err != nil {
		t.Fatal(err)
	}
	names := func(pattern, text string) (names []string) {
		for _, match := range regexp.MustCompile(pattern).FindAllStringSubmatch(text, -1) {
			names = append(names, strings.ToLower(strings.ReplaceAll(match[1], "_", "")))
		}
		return names
	}
	tensors := names(`const attn_tensor\*\s+(\w+);`, body)
	inC := names(`(?m)^  (?:TENSOR|VECTOR)\((\w+)`, string(interfaceFile))
	call := names(`(?m)^    data\(unsafe.*?args\.(\w+)`, string(interfaceFile))
	if !slices.Equal(inC, tensors) || !slices.Equal(call, tensors) || len(tensors) == 0 {
		t.Errorf("%v in C, %v and %v in attn.i", tensors, inC, call)
	}
	fields := reflect.TypeFor[raw.RunArgs]()
	for i, name := range tensors {
		if i >= fields.NumField() || strings.ToLower(fields.Field(i).Name) != name {
			t.Errorf("field %d is not %s", i, name)
		}
	}
	sameLayout(t, fields, reflect.TypeFor[attn.RunArgs]())
}

// sameLayout fails unless two structs have fields of the same names, kinds and places.
func sameLayout(t *testing.T, a, b reflect.Type) {
	t.Helper()
	if a.NumField() != b.NumField() || a.Size() != b.Size() {
		t.Fatalf("%v has %d fields in %d bytes, %v %d in %d", a, a.NumField(), a.Size(), b, b.NumField(), b.Size())
	}
	for i := range a.NumField() {
		x, y := a.Field(i), b.Field(i)
		if !strings.EqualFold(x.Name, y.Name) || x.Offset != y.Offset {
			t.Errorf("%v.%s at %d is %v.%s at %d", a, x.Name, x.Offset, b, y.Name, y.Offset)
		}
		if x.Type != y.Type {
			if x.Type.Kind() != reflect.Struct || y.Type.Kind() != reflect.Struct {
				t.Errorf("%v.%s is %v and %v", a, x.Name, x.Type, y.Type)
				continue
			}
			sameLayout(t, x.Type, y.Type)
		}
	}
}

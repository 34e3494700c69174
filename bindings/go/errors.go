// errors.go: the library's statuses as errors, and the words that come with them.

package attn

import (
	"errors"
	"fmt"

	"attn/raw"
)

// Status is why a call failed, and an error itself, for errors.Is:
//
//	if errors.Is(err, attn.ErrUnsupported) { ... }
type Status int32

const (
	ErrInvalidArgument Status = 1 // a value that is never legal; the message names the field
	ErrUnsupported     Status = 2 // legal, but no backend, or not the forced one, can do it
	ErrUnavailable     Status = 3 // a forced backend or instruction set is not on this machine
	ErrOutOfMemory     Status = 4
	ErrWorkspace       Status = 5 // the workspace is too small or not aligned
	ErrVersion         Status = 6 // the library is older than this package
	ErrExecutor        Status = 7 // the executor did not run the tasks; outputs are undefined
	ErrDevice          Status = 8 // the device failed; outputs are undefined
	ErrInternal        Status = 9 // a defect of the library
)

// ErrClosed is what every call on a closed context or plan returns.
var ErrClosed = errors.New("attn: used after Close")

// Error is the name of the status in C, "ATTN_ERROR_WORKSPACE".
func (s Status) Error() string { return raw.Attn_status_name(int(s)) }

// Error is a failure of the library or of this package: its status, and words that name the field,
// what it held and what is allowed. errors.Is finds the status in it, errors.As the Error:
//
//	var failure *attn.Error
//	if errors.As(err, &failure) { log.Print(failure.Message) }
type Error struct {
	Status  Status
	Message string
}

func (e *Error) Error() string { return "attn: " + e.Message }

// Unwrap returns the status.
func (e *Error) Unwrap() error { return e.Status }

// invalid is an ErrInvalidArgument with words.
func invalid(format string, args ...any) error {
	return &Error{ErrInvalidArgument, fmt.Sprintf(format, args...)}
}

// failed is the error of a flat call, nil if it went well.
func failed(status int32, failure *raw.Failure) error {
	if status == 0 {
		return nil
	}
	return &Error{Status(status), failure.Text()}
}

// try calls a function of the raw layer with a place for the words of its failure.
func try(call func(failure raw.Attn_error) int) error {
	failure := raw.NewAttn_error()
	defer raw.DeleteAttn_error(failure)
	if status := call(failure); status != 0 {
		return &Error{Status(status), failure.GetMessage()}
	}
	return nil
}

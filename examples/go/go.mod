module example

go 1.24

require attn v0.0.0

replace attn => ../../bindings/go

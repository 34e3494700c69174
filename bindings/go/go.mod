module attn

go 1.24

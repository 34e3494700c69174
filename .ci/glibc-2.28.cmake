# A toolchain for what runs on glibc 2.28 and later: the machine's compiler makes the objects, so that
# they are as fast as ever, and zig, which knows the symbols of each glibc, links them. What needs a
# symbol that 2.28 lacks does not link.

find_program(ATTN_ZIG NAMES python-zig zig REQUIRED)  # python-zig: of the package ziglang
set(link "${ATTN_ZIG} cc -target ${CMAKE_HOST_SYSTEM_PROCESSOR}-linux-gnu.2.28 -O2 -Wl,--strip-debug")
set(CMAKE_C_LINK_EXECUTABLE "${link} <LINK_FLAGS> <OBJECTS> -o <TARGET> <LINK_LIBRARIES>")
set(CMAKE_C_CREATE_SHARED_LIBRARY "${link} -shared <LINK_FLAGS> \
<SONAME_FLAG><TARGET_SONAME> -o <TARGET> <OBJECTS> <LINK_LIBRARIES>")

#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace sllm {

// Whether a file can be mapped at all (some FUSE file systems refuse it), and its pages lie as ours do.
bool can_map(int fd);

// Puts a private, copy-on-write mapping of the file's bytes in the place of `memory`, which is mapped and
// whose address is congruent to the offset modulo the size of a page. The rest of its last page goes with it.
// Only after can_map(): a mapping that fails half-way would leave a hole. Throws exhausted or io.
void map_in_place(int fd, std::uint64_t offset, std::span<std::byte> memory);

}  // namespace sllm

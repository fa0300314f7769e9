#pragma once

#include <cstddef>
#include <span>

namespace sllm {

// Fault in memory as a batch, its contents left alone (madvise(2), MADV_POPULATE_READ and
// MADV_POPULATE_WRITE). Any alignment; whole pages are taken. They do nothing where the kernel cannot
// (before 5.14): then the first touch faults, as it does for memory that nobody populated.
//
// populate_read() is false where touching the memory would kill the process: it maps bytes of a file that the
// file no longer has, or that the drive cannot deliver.
bool populate_read(std::span<std::byte> memory);
void populate_write(std::span<std::byte> memory);

// Whether populate_write() does anything here.
bool can_populate();

}  // namespace sllm

#pragma once

#include <cstddef>
#include <span>

#include "base/size.h"
#include "memory/page_choice.h"

namespace sllm {

// What a huge page takes on x86-64 and, with pages of 4 KiB, on aarch64. Where it is another size, advice
// about ranges of this one is harmless.
inline constexpr std::uint64_t kHugePageBytes = 2 * kMiB;

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

// Puts huge pages in the place of small ones, the contents left alone, also while others write to them, where
// `memory` has whole ones (madvise(2), MADV_COLLAPSE). For memory of which each huge page's place has a page
// at least. False where not all of them are huge then: the kernel cannot (before 6.1), may not, or has no
// memory in one piece.
bool collapse(std::span<std::byte> memory);

// Which pages memory that is not there yet shall come in (MADV_HUGEPAGE, MADV_NOHUGEPAGE). The kernel may
// have its own mind: nothing happens where it was built or told to have no huge pages.
void advise_pages(std::span<std::byte> memory, PageKind kind);

}  // namespace sllm

#include "memory/mapped_region.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <iterator>
#include <string>
#include <system_error>

#include "base/error.h"
#include "base/size.h"
#include "io/file.h"
#include "memory/aligned_mapping.h"
#include "memory/populate.h"

namespace sllm {
namespace {

// How much is populated between two looks whether to stop: about a millisecond's worth of small pages.
constexpr std::uint64_t kStepBytes = 4 * kMiB;

std::uint64_t page_bytes() { return static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE)); }

std::string text_of(const RegionPiece& piece) {
  return std::to_string(piece.bytes) + " bytes at " + std::to_string(piece.pool_offset) + " for " +
         std::to_string(piece.destination);
}

// Touching what the file does not have, or no longer has, would kill the process.
std::uint64_t sealed_bytes(int pool) {
  struct stat status{};
  if (::fstat(pool, &status) != 0) throw error_from_errno(errno, "cannot map a pool");
  const int seals = ::fcntl(pool, F_GET_SEALS);
  if (seals < 0 || (seals & F_SEAL_SHRINK) == 0) {
    throw Error(ErrorCode::kInvalid, "cannot map a pool: the descriptor is no sealed memory");
  }
  return static_cast<std::uint64_t>(status.st_size);
}

bool can_be_mapped(const RegionPiece& piece) {
  return piece.destination % page_bytes() == 0 && piece.pool_offset % page_bytes() == 0;
}

// Where it ends in the region: a mapped one takes whole pages.
std::uint64_t end_of(const RegionPiece& piece) {
  const std::uint64_t end = checked_add(piece.destination, piece.bytes);
  return can_be_mapped(piece) ? align_up(end, page_bytes()) : end;
}

void check_inside(const RegionPiece& piece, std::uint64_t pool_bytes, std::uint64_t bytes) {
  if (checked_add(piece.pool_offset, piece.bytes) <= pool_bytes &&
      checked_add(piece.destination, piece.bytes) <= bytes) {
    return;
  }
  throw Error(ErrorCode::kInvalid, text_of(piece) + " leave a pool of " + std::to_string(pool_bytes) +
                                       " or a region of " + std::to_string(bytes));
}

// By destination, the empty ones left out.
std::vector<RegionPiece> in_order(std::span<const RegionPiece> pieces) {
  std::vector<RegionPiece> ordered;
  std::copy_if(pieces.begin(), pieces.end(), std::back_inserter(ordered),
               [](const RegionPiece& piece) { return piece.bytes > 0; });
  std::sort(ordered.begin(), ordered.end(),
            [](const RegionPiece& a, const RegionPiece& b) { return a.destination < b.destination; });
  return ordered;
}

void check_apart(const std::vector<RegionPiece>& ordered) {
  const auto overlap = std::adjacent_find(
      ordered.begin(), ordered.end(),
      [](const RegionPiece& piece, const RegionPiece& next) { return end_of(piece) > next.destination; });
  if (overlap == ordered.end()) return;
  throw Error(ErrorCode::kInvalid, text_of(*overlap) + " lie in the way of " + text_of(overlap[1]));
}

bool continues(const RegionPiece& run, const RegionPiece& next) {
  return can_be_mapped(run) && can_be_mapped(next) && run.destination + run.bytes == next.destination &&
         run.pool_offset + run.bytes == next.pool_offset;
}

// Neighbours that are mapped become one: each mapping is a call, and a process may have only so many.
std::vector<RegionPiece> joined(const std::vector<RegionPiece>& ordered) {
  std::vector<RegionPiece> runs;
  for (const RegionPiece& piece : ordered) {
    if (!runs.empty() && continues(runs.back(), piece)) {
      runs.back().bytes += piece.bytes;
    } else {
      runs.push_back(piece);
    }
  }
  return runs;
}

void populate(const std::stop_token& stop, std::span<const std::span<std::byte>> mapped) {
  for (std::span<std::byte> memory : mapped) {
    while (!memory.empty() && !stop.stop_requested()) {
      const std::size_t step = std::min<std::size_t>(memory.size(), kStepBytes);
      populate_read(memory.first(step));
      memory = memory.subspan(step);
    }
  }
}

}  // namespace

std::shared_ptr<MappedRegion> MappedRegion::map(UniqueFd pool, std::span<const RegionPiece> pieces,
                                                std::uint64_t bytes) {
  const std::uint64_t pool_bytes = sealed_bytes(pool.get());
  const std::vector<RegionPiece> ordered = in_order(pieces);
  for (const RegionPiece& piece : ordered) check_inside(piece, pool_bytes, bytes);
  check_apart(ordered);
  std::shared_ptr<MappedRegion> region(new MappedRegion(bytes));
  for (const RegionPiece& run : joined(ordered)) region->add(pool.get(), run);
  region->start_prefaulting();
  return region;
}

// Nothing is reserved for it in the kernel's account: what is mapped is copied only where somebody writes.
MappedRegion::MappedRegion(std::uint64_t bytes)
    : bytes_(bytes),
      memory_(map_aligned(align_up(std::max<std::uint64_t>(bytes, 1), page_bytes()), kHugePageBytes,
                          PROT_READ | PROT_WRITE, MAP_NORESERVE)),
      process_(::getpid()) {}

// A forked child has no such thread, and what joining it does there is nobody's promise (fork(2)).
MappedRegion::~MappedRegion() {
  if (prefaulting_.joinable() && process_ != ::getpid()) prefaulting_.detach();
}

void MappedRegion::add(int pool, const RegionPiece& piece) {
  const std::span<std::byte> place{memory_.start() + piece.destination, piece.bytes};
  if (!can_be_mapped(piece)) return read_wholly(pool, "a pool", piece.pool_offset, place);
  const int flags = MAP_PRIVATE | MAP_FIXED | MAP_NORESERVE;
  if (::mmap(place.data(), place.size(), PROT_READ | PROT_WRITE, flags, pool,
             static_cast<off_t>(piece.pool_offset)) == MAP_FAILED) {
    throw error_from_errno(errno, "cannot map " + text_of(piece));
  }
  mapped_bytes_ += piece.bytes;
  mapped_.push_back(place);
}

void MappedRegion::start_prefaulting() {
  if (mapped_.empty()) return;
  try {
    prefaulting_ = std::jthread([this](const std::stop_token& stop) { populate(stop, mapped_); });
  } catch (const std::system_error& error) {
    throw error_from_errno(error.code().value(), "cannot start a faulting thread");
  }
}

}  // namespace sllm

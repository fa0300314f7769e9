#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <thread>
#include <utility>
#include <vector>

#include "base/mapping.h"
#include "base/unique_handle.h"

namespace sllm {

// Bytes of a pool and where they belong in a region.
struct RegionPiece {
  std::uint64_t destination = 0;  // counted from the region's start
  std::uint64_t pool_offset = 0;
  std::uint64_t bytes = 0;
};

// Chunks that lie scattered in another process's pool, mapped side by side, privately, copy-on-write, so that
// they read as one buffer. N processes share one copy of every page until one of them writes to it.
//
// Shared by everything that points into it; with the last reference it is unmapped, and the lease that it
// came from ends with it, unless somebody else has its descriptor. A forked child has it too, and holds the
// lease as long as its own copy is there. Thread-safe, but for its bytes.
class MappedRegion {
 public:
  // `pool` is a lease's descriptor, closed on return: the mappings keep it. Pieces whose destination and
  // offset are multiples of the page size are mapped (the rest of a last page comes with it), the others
  // copied; they do not overlap, and a mapped one has its last page for itself. What no piece covers is zero.
  // A thread maps the pages ahead of their first use, whole huge pages where the pool has them and
  // destination and offset are congruent modulo kHugePageBytes. Throws invalid for pieces outside the pool or
  // the region or in each other's way, and for a descriptor that is no sealed memory; exhausted, io.
  static std::shared_ptr<MappedRegion> map(UniqueFd pool, std::span<const RegionPiece> pieces,
                                           std::uint64_t bytes);

  ~MappedRegion();

  std::span<std::byte> bytes() const { return {memory_.start(), bytes_}; }
  std::uint64_t mapped_bytes() const { return mapped_bytes_; }

 private:
  explicit MappedRegion(std::uint64_t bytes);

  void add(int pool, const RegionPiece& piece);
  void start_prefaulting();

  std::uint64_t bytes_;
  Mapping memory_;
  std::uint64_t mapped_bytes_ = 0;
  std::vector<std::span<std::byte>> mapped_;
  int process_;               // whose thread this is
  std::jthread prefaulting_;  // stops before the memory goes
};

}  // namespace sllm

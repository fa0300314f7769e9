#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <set>
#include <vector>

namespace sllm {

// Neighbouring bytes of a pool.
struct PoolRun {
  std::uint64_t offset = 0;
  std::uint64_t bytes = 0;

  auto operator<=>(const PoolRun&) const = default;
};

// Who has which bytes of a pool: whole chunks, and pages (kBlockBytes) of chunks that several share. Pure;
// not thread-safe.
//
// Whole chunks are taken in runs of neighbours where there are such, and touched ones before untouched ones.
// What is packed takes the least hole in a shared chunk that has room for all of it; else it takes the
// largest one and goes on elsewhere, in a chunk of its own in the end. Holes below kLeastPieceBytes are left
// alone by what does not fit into one: they would cost more mappings than they save memory.
class Places {
 public:
  static constexpr std::uint64_t kLeastPieceBytes = 128 << 10;

  // What is wanted at once: so many whole chunks, and for each entry of `packed` that many bytes.
  struct Request {
    std::uint64_t chunks = 0;
    std::vector<std::uint64_t> packed;
  };
  struct Placement {
    std::vector<std::uint64_t> chunks;         // sorted
    std::vector<std::vector<PoolRun>> packed;  // as in the request, each of whole pages within a chunk
  };
  using ChunkPredicate = std::function<bool(std::uint64_t chunk)>;

  // `chunk_bytes` is a multiple of kLeastPieceBytes.
  Places(std::uint64_t chunks, std::uint64_t chunk_bytes);

  std::uint64_t free_chunks() const { return free_chunks_; }
  bool is_free(std::uint64_t chunk) const { return uses_[chunk] == Use::kNone; }

  // How many free chunks take() needs for it once those that are `leaving` have been given back; where the
  // holes of shared chunks are left alone, or as far as they help.
  std::uint64_t chunks_needed_alone(const Request& request) const;
  std::uint64_t chunks_needed(const Request& request, const std::set<std::uint64_t>& leaving) const;

  // All of it, or nothing where there is no room.
  std::optional<Placement> take(const Request& request, const ChunkPredicate& is_touched);
  void give_back_chunk(std::uint64_t chunk);
  // Of a shared chunk, which is free with the last of them.
  void give_back(PoolRun run);

 private:
  enum class Use : std::uint8_t { kNone, kWhole, kShared };
  struct Packing;

  Packing pack(const std::vector<std::uint64_t>& sizes, const std::set<std::uint64_t>* leaving) const;
  std::vector<std::uint64_t> take_chunks(std::uint64_t count, const ChunkPredicate& is_touched);
  void share(std::uint64_t chunk);
  void take_hole(std::uint64_t page, std::uint64_t pages);

  std::uint64_t pages_per_chunk_;
  std::uint64_t free_chunks_;
  std::vector<Use> uses_;
  std::map<std::uint64_t, std::uint64_t> holes_;  // of shared chunks: first page and pages, within one chunk
};

}  // namespace sllm

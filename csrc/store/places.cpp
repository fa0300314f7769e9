#include "store/places.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "base/size.h"

namespace sllm {
namespace {

constexpr std::uint64_t kLeastPiecePages = Places::kLeastPieceBytes / kBlockBytes;

struct PageRun {
  std::uint64_t pages = 0;
  std::uint64_t first = 0;

  auto operator<=>(const PageRun&) const = default;
};

// Free chunks side by side, the shortest first.
using ChunkRuns = std::set<PageRun>;

// The least one that has all of `count`, else the largest. There is one.
ChunkRuns::iterator best_of(const ChunkRuns& runs, std::uint64_t count) {
  const auto fitting = runs.lower_bound({count, 0});
  return fitting == runs.end() ? std::prev(fitting) : fitting;
}

void take_from(ChunkRuns& runs, std::uint64_t count, std::vector<std::uint64_t>& taken) {
  while (taken.size() < count && !runs.empty()) {
    const auto best = best_of(runs, count - taken.size());
    const std::uint64_t chunks = std::min(best->pages, count - taken.size());
    for (std::uint64_t i = 0; i < chunks; ++i) taken.push_back(best->first + i);
    const PageRun rest{best->pages - chunks, best->first + chunks};
    runs.erase(best);
    if (rest.pages > 0) runs.insert(rest);
  }
}

}  // namespace

// Where things would lie. Pages behind those of the pool are in chunks that have yet to be taken.
struct Places::Packing {
  std::vector<std::vector<PageRun>> runs;
  std::uint64_t fresh_chunks = 0;
};

Places::Places(std::uint64_t chunks, std::uint64_t chunk_bytes)
    : pages_per_chunk_(chunk_bytes / kBlockBytes), free_chunks_(chunks), uses_(chunks, Use::kNone) {}

// With `leaving` null no hole is used.
Places::Packing Places::pack(const std::vector<std::uint64_t>& sizes,
                             const std::set<std::uint64_t>* leaving) const {
  std::set<PageRun> holes;
  for (auto hole = holes_.begin(); leaving != nullptr && hole != holes_.end(); ++hole) {
    if (!leaving->contains(hole->first / pages_per_chunk_)) holes.insert({hole->second, hole->first});
  }
  Packing packing;
  for (const std::uint64_t bytes : sizes) {
    std::vector<PageRun>& runs = packing.runs.emplace_back();
    for (std::uint64_t pages = align_up(bytes, kBlockBytes) / kBlockBytes; pages > 0;) {
      const auto fitting = holes.lower_bound({pages, 0});
      if (fitting == holes.end() && (holes.empty() || std::prev(fitting)->pages < kLeastPiecePages)) {
        holes.insert({pages_per_chunk_, (uses_.size() + packing.fresh_chunks++) * pages_per_chunk_});
        continue;
      }
      const PageRun hole = *(fitting == holes.end() ? std::prev(fitting) : fitting);
      const std::uint64_t taken = std::min(pages, hole.pages);
      holes.erase(hole);
      if (taken < hole.pages) holes.insert({hole.pages - taken, hole.first + taken});
      runs.push_back({taken, hole.first});
      pages -= taken;
    }
  }
  return packing;
}

std::uint64_t Places::chunks_needed_alone(const Request& request) const {
  return request.chunks + pack(request.packed, nullptr).fresh_chunks;
}

std::uint64_t Places::chunks_needed(const Request& request, const std::set<std::uint64_t>& leaving) const {
  if (request.packed.empty()) return request.chunks;
  // Holes can spread things so that more is left over than in fresh chunks.
  return request.chunks +
         std::min(pack(request.packed, &leaving).fresh_chunks, pack(request.packed, nullptr).fresh_chunks);
}

std::optional<Places::Placement> Places::take(const Request& request, const ChunkPredicate& is_touched) {
  const std::set<std::uint64_t> nothing_leaves;
  Packing packing = pack(request.packed, &nothing_leaves);
  if (request.chunks + packing.fresh_chunks > free_chunks_) packing = pack(request.packed, nullptr);
  const std::uint64_t count = request.chunks + packing.fresh_chunks;
  if (count > free_chunks_) return std::nullopt;

  Placement placement{.chunks = take_chunks(count, is_touched), .packed = {}};
  const auto fresh = placement.chunks.begin() + static_cast<std::ptrdiff_t>(request.chunks);
  std::for_each(fresh, placement.chunks.end(), [this](std::uint64_t chunk) { share(chunk); });
  for (const std::vector<PageRun>& runs : packing.runs) {
    std::vector<PoolRun>& placed = placement.packed.emplace_back();
    for (PageRun run : runs) {
      const std::uint64_t chunk = run.first / pages_per_chunk_;
      if (chunk >= uses_.size()) {
        const std::uint64_t real = fresh[static_cast<std::ptrdiff_t>(chunk - uses_.size())];
        run.first = real * pages_per_chunk_ + run.first % pages_per_chunk_;
      }
      take_hole(run.first, run.pages);
      placed.push_back({run.first * kBlockBytes, run.pages * kBlockBytes});
    }
  }
  placement.chunks.erase(fresh, placement.chunks.end());
  return placement;
}

std::vector<std::uint64_t> Places::take_chunks(std::uint64_t count, const ChunkPredicate& is_touched) {
  ChunkRuns touched;
  ChunkRuns untouched;
  for (std::uint64_t chunk = 0; chunk < uses_.size();) {
    const std::uint64_t first = chunk++;
    if (!is_free(first)) continue;
    const bool is_there = is_touched(first);
    while (chunk < uses_.size() && is_free(chunk) && is_touched(chunk) == is_there) ++chunk;
    (is_there ? touched : untouched).insert({chunk - first, first});
  }
  std::vector<std::uint64_t> taken;
  take_from(touched, count, taken);
  take_from(untouched, count, taken);
  std::sort(taken.begin(), taken.end());
  for (const std::uint64_t chunk : taken) uses_[chunk] = Use::kWhole;
  free_chunks_ -= taken.size();
  return taken;
}

void Places::share(std::uint64_t chunk) {
  uses_[chunk] = Use::kShared;
  holes_[chunk * pages_per_chunk_] = pages_per_chunk_;
}

// From the front of a hole.
void Places::take_hole(std::uint64_t page, std::uint64_t pages) {
  const auto hole = holes_.find(page);
  const std::uint64_t rest = hole->second - pages;
  holes_.erase(hole);
  if (rest > 0) holes_[page + pages] = rest;
}

void Places::give_back_chunk(std::uint64_t chunk) {
  uses_[chunk] = Use::kNone;
  ++free_chunks_;
}

void Places::give_back(PoolRun run) {
  std::uint64_t first = run.offset / kBlockBytes;
  std::uint64_t pages = run.bytes / kBlockBytes;
  const std::uint64_t chunk = first / pages_per_chunk_;
  const auto behind = holes_.find(first + pages);
  if (behind != holes_.end() && behind->first / pages_per_chunk_ == chunk) {
    pages += behind->second;
    holes_.erase(behind);
  }
  const auto next = holes_.lower_bound(first);
  if (next != holes_.begin()) {
    const auto before = std::prev(next);
    if (before->first + before->second == first && before->first / pages_per_chunk_ == chunk) {
      first = before->first;
      pages += before->second;
      holes_.erase(before);
    }
  }
  if (pages == pages_per_chunk_) return give_back_chunk(chunk);
  holes_[first] = pages;
}

}  // namespace sllm

#include "store/store.h"

#include <algorithm>
#include <string>
#include <utility>

#include "base/crc32c.h"
#include "base/error.h"
#include "base/size.h"
#include "store/reservation.h"
#include "store/state.h"

namespace sllm {
namespace {

// Cut to whole pages or the file's end, sorted, neighbours in one. The ranges lie within the files.
std::vector<FileRange> whole_pages(std::span<const FileRange> ranges, const Checkpoint& checkpoint) {
  std::vector<FileRange> cut;
  for (const FileRange& range : ranges) {
    if (range.begin == range.end) continue;
    const std::uint64_t end = checkpoint.files[range.file].stored.bytes;
    cut.push_back(
        {range.file, align_down(range.begin, kBlockBytes), std::min(align_up(range.end, kBlockBytes), end)});
  }
  std::sort(cut.begin(), cut.end(), [](const FileRange& a, const FileRange& b) {
    return std::pair(a.file, a.begin) < std::pair(b.file, b.begin);
  });
  std::vector<FileRange> joined;
  for (const FileRange& range : cut) {
    if (!joined.empty() && joined.back().file == range.file && range.begin <= joined.back().end) {
      joined.back().end = std::max(joined.back().end, range.end);
    } else {
      joined.push_back(range);
    }
  }
  return joined;
}

std::uint64_t total_bytes(const Checkpoint& checkpoint) {
  std::uint64_t bytes = 0;
  for (const CatalogFile& file : checkpoint.files) bytes += file.stored.bytes;
  return bytes;
}

CheckpointStatus status_of(CheckpointNumber number, const Checkpoint& checkpoint,
                           const std::vector<LeaseStatus>& leases) {
  const auto held = std::count_if(leases.begin(), leases.end(),
                                  [number](const LeaseStatus& lease) { return lease.checkpoint == number; });
  return {.number = number,
          .bytes = total_bytes(checkpoint),
          .resident_bytes = checkpoint.resident_bytes,
          .filling_bytes = checkpoint.filling_bytes,
          .leases = static_cast<std::uint64_t>(held),
          .uses = checkpoint.uses,
          .is_retired = checkpoint.is_retired};
}

CatalogFile& find_file(Checkpoint& checkpoint, std::uint64_t file) {
  if (file < checkpoint.files.size()) return checkpoint.files[file];
  throw Error(ErrorCode::kInvalid, "a checkpoint of " + std::to_string(checkpoint.files.size()) +
                                       " files has no file " + std::to_string(file));
}

void refuse_retired(CheckpointNumber number, const Checkpoint& checkpoint) {
  if (!checkpoint.is_retired) return;
  throw Error(ErrorCode::kNotFound, "checkpoint " + std::to_string(number) + " was retired");
}

// A file that is resident as a whole, held so that it stays.
class ResidentFile {
 public:
  // Throws not_found, invalid, and conflict where not all of it is resident.
  ResidentFile(std::shared_ptr<StoreState> state, CheckpointNumber checkpoint, std::uint64_t file)
      : state_(std::move(state)), checkpoint_(checkpoint) {
    const std::lock_guard lock(state_->mutex);
    const FileRange all{file, 0, find_file(state_->catalog.find(checkpoint), file).stored.bytes};
    std::vector<PartId> parts = state_->catalog.parts_of(checkpoint, {&all, 1});
    for (const PartId& part : parts) {
      if (state_->catalog.at(part).state == PartState::kResident) continue;
      throw Error(ErrorCode::kConflict, "file " + std::to_string(file) + " of checkpoint " +
                                            std::to_string(checkpoint) + " is not resident");
    }
    for (const PartId& part : parts) state_->append_pieces(part, all, pieces_);
    state_->hold(parts);
    parts_ = std::move(parts);
  }
  ResidentFile(const ResidentFile&) = delete;
  ResidentFile& operator=(const ResidentFile&) = delete;
  ~ResidentFile() {
    {
      const std::lock_guard lock(state_->mutex);
      state_->let_go(checkpoint_, parts_);
    }
    state_->changes.note();
  }

  std::vector<std::uint32_t> span_crcs() const {
    std::vector<std::uint32_t> crcs;
    std::uint64_t in_span = 0;  // bytes that the last one has
    for (const PooledPiece& piece : pieces_) {
      for (auto left = state_->memory_of({piece.pool_offset, piece.bytes}); !left.empty();) {
        if (in_span == 0) crcs.push_back(0);
        const auto taken = left.first(std::min<std::uint64_t>(left.size(), kSpanBytes - in_span));
        crcs.back() = crc32c(taken, crcs.back());
        in_span = (in_span + taken.size()) % kSpanBytes;
        left = left.subspan(taken.size());
      }
    }
    return crcs;
  }

 private:
  std::shared_ptr<StoreState> state_;
  CheckpointNumber checkpoint_;
  std::vector<PartId> parts_;
  std::vector<PooledPiece> pieces_;
};

}  // namespace

Store::Store(const Options& options) : state_(std::make_shared<StoreState>(options)) {}

Store::~Store() = default;

CheckpointNumber Store::add(std::vector<StoredFile> files, double cost_s_per_byte) {
  const std::lock_guard lock(state_->mutex);
  return state_->catalog.add(std::move(files), cost_s_per_byte);
}

void Store::set_cost(CheckpointNumber checkpoint, double cost_s_per_byte) {
  const std::lock_guard lock(state_->mutex);
  Checkpoint& found = state_->catalog.find(checkpoint);
  state_->room.order().set_cost(checkpoint, cost_s_per_byte, 1);
  found.cost_s_per_byte = cost_s_per_byte;
}

void Store::retire(CheckpointNumber checkpoint) {
  {
    const std::lock_guard lock(state_->mutex);
    state_->catalog.find(checkpoint).is_retired = true;
    state_->sweep(checkpoint);
  }
  state_->changes.note();
}

std::uint64_t Store::evict(CheckpointNumber checkpoint) {
  std::uint64_t bytes = 0;
  {
    const std::lock_guard lock(state_->mutex);
    bytes = state_->evict(checkpoint);
    state_->sweep(checkpoint);
  }
  state_->changes.note();
  return bytes;
}

std::shared_ptr<Reservation> Store::reserve(CheckpointNumber number, std::span<const FileRange> ranges) {
  // It goes after the lock: its end wants the mutex.
  auto impl = std::make_unique<Reservation::Impl>(state_, number);
  const std::lock_guard lock(state_->mutex);
  Checkpoint& checkpoint = state_->catalog.find(number);
  refuse_retired(number, checkpoint);
  std::vector<PartId> parts = state_->catalog.parts_of(number, ranges);
  state_->room.refuse_too_large(parts);
  impl->wanted = whole_pages(ranges, checkpoint);
  state_->hold(parts);
  impl->holding.parts = std::move(parts);
  if (!state_->room.place(impl->holding.parts)) {
    state_->let_go(number, std::exchange(impl->holding.parts, {}));
    return nullptr;
  }
  state_->forget_retired();  // the room that was made may have been the last of one
  if (!impl->holding.parts.empty()) state_->room.order().use(number, checkpoint.cost_s_per_byte, 1);
  ++checkpoint.uses;
  impl->begin_locked();
  return std::shared_ptr<Reservation>(new Reservation(std::move(impl)));
}

std::vector<std::uint32_t> Store::span_crcs(CheckpointNumber checkpoint, std::uint64_t file) const {
  const ResidentFile resident(state_, checkpoint, file);
  return resident.span_crcs();
}

void Store::prove(CheckpointNumber checkpoint, std::uint64_t file, std::vector<std::uint32_t> span_crcs) {
  const std::lock_guard lock(state_->mutex);
  StoredFile& stored = find_file(state_->catalog.find(checkpoint), file).stored;
  validate_crcs(stored.bytes, span_crcs);
  if (!stored.span_crcs.empty() && stored.span_crcs != span_crcs) {
    throw Error(ErrorCode::kConflict, "other crcs of file " + std::to_string(file) + " of checkpoint " +
                                          std::to_string(checkpoint) + " are known");
  }
  stored.span_crcs = std::move(span_crcs);
}

std::vector<LeaseStatus> Store::leases() const {
  std::vector<LeaseStatus> living = state_->leases.living();
  const std::lock_guard lock(state_->mutex);
  state_->sweep_retired(living);
  return living;
}

StoreStatus Store::status() const {
  const std::vector<LeaseStatus> leases = this->leases();
  const std::uint64_t chunk_bytes = state_->pool.chunk_bytes();
  StoreStatus status{.pool_bytes = state_->pool.memory().size(),
                     .chunk_bytes = chunk_bytes,
                     .touched_bytes = state_->pool.touched_chunks() * chunk_bytes,
                     .leased_bytes = state_->leases.covered_chunks() * chunk_bytes,
                     .checkpoints = {}};
  const std::lock_guard lock(state_->mutex);
  status.free_bytes = state_->room.free_chunks() * chunk_bytes;
  status.evicted_bytes = state_->room.evicted_bytes();
  status.hit_bytes = state_->hit_bytes;
  status.miss_bytes = state_->miss_bytes;
  status.filled_bytes = state_->filled_bytes;
  status.failed_fills = state_->failed_fills;
  for (const auto& [number, checkpoint] : state_->catalog.checkpoints()) {
    status.resident_bytes += checkpoint.resident_bytes;
    status.filling_bytes += checkpoint.filling_bytes;
    status.checkpoints.push_back(status_of(number, checkpoint, leases));
  }
  return status;
}

int Store::changes_fd() const { return state_->changes.fd(); }

void Store::start_warming() {
  std::call_once(state_->is_warming, [this] { state_->warmer.start(); });
}

ChunkPool& Store::pool() { return state_->pool; }

}  // namespace sllm

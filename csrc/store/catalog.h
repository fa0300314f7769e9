#pragma once

#include <compare>
#include <cstdint>
#include <map>
#include <span>
#include <vector>

#include "store/places.h"
#include "store/stored_file.h"

namespace sllm {

// store.h has the states and what leads from one to the next.
enum class PartState : std::uint8_t { kAbsent, kPlaced, kFilling, kResident };

struct Part {
  PartState state = PartState::kAbsent;
  std::uint32_t holds = 0;    // reservations that want it
  std::vector<PoolRun> runs;  // where it lies, in the file's order; none while it is absent
};

struct PartId {
  CheckpointNumber checkpoint = 0;
  std::uint64_t file = 0;
  std::uint64_t part = 0;

  auto operator<=>(const PartId&) const = default;
};

struct CatalogFile {
  StoredFile stored;
  std::vector<Part> parts;
};

struct Checkpoint {
  std::vector<CatalogFile> files;
  double cost_s_per_byte = 0;
  std::uint64_t uses = 0;
  std::uint64_t holds = 0;         // of all its parts
  std::uint64_t placed_parts = 0;  // that are not absent
  std::uint64_t resident_bytes = 0;
  std::uint64_t filling_bytes = 0;
  bool is_retired = false;

  bool is_forgettable() const { return is_retired && placed_parts == 0 && holds == 0; }
};

// Checkpoints, their files, and the parts that those are cut into. Part i of a file has its bytes from i *
// chunk_bytes on; all but the last are a whole chunk's. Bookkeeping alone; not thread-safe.
class Catalog {
 public:
  explicit Catalog(std::uint64_t chunk_bytes) : chunk_bytes_(chunk_bytes) {}

  // Throws invalid for CRCs that are not one a span.
  CheckpointNumber add(std::vector<StoredFile> files, double cost_s_per_byte);
  void remove(CheckpointNumber number) { checkpoints_.erase(number); }
  // Throws not_found.
  Checkpoint& find(CheckpointNumber number);
  const std::map<CheckpointNumber, Checkpoint>& checkpoints() const { return checkpoints_; }

  // The parts that the ranges touch, sorted, each once. Throws not_found, invalid for bytes outside a file.
  std::vector<PartId> parts_of(CheckpointNumber number, std::span<const FileRange> ranges);
  std::vector<PartId> parts_of(CheckpointNumber number);

  // Of parts that exist.
  Part& at(PartId id);
  FileRange range_of(PartId id);
  std::uint64_t bytes_of(PartId id);
  // Whether it has a chunk for itself.
  bool is_whole(PartId id) { return bytes_of(id) == chunk_bytes_; }
  void set_state(PartId id, PartState state);

 private:
  std::uint64_t chunk_bytes_;
  CheckpointNumber last_ = 0;
  std::map<CheckpointNumber, Checkpoint> checkpoints_;
};

// Throws invalid where they are neither one for each span nor none.
void validate_crcs(std::uint64_t bytes, std::span<const std::uint32_t> span_crcs);

}  // namespace sllm

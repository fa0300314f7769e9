#include <pybind11/stl.h>

#include <array>
#include <cstdint>
#include <memory>
#include <tuple>
#include <utility>
#include <vector>

#include "bindings/bindings.h"
#include "bindings/load.h"
#include "bindings/memory.h"
#include "load/own_thread.h"
#include "load/pipeline.h"
#include "memory/mapped_region.h"
#include "store/pool_copies.h"
#include "store/pool_pins.h"
#include "store/store.h"

namespace py = pybind11;

namespace sllm {
namespace {

using PieceFields = std::tuple<std::uint64_t, std::uint64_t, std::uint64_t, std::uint64_t>;
// As Extent has them.
using ExtentFields = std::array<std::uint64_t, 8>;

// A device that a store's bytes are copied onto, with what its driver has pinned of the pool. Thread-safe.
class PoolDevice {
 public:
  // The store outlives it.
  PoolDevice(Store& store, std::shared_ptr<Device> device)
      : pool_(store.pool()), device_(std::move(device)), pins_(pool_, device_) {}

  const std::shared_ptr<Device>& device() const { return device_; }
  std::uint64_t pinned_bytes() const { return pins_.pinned_bytes(); }

  // The pieces are held, and resident, until it returns.
  LoadReport copy(const std::vector<PooledPiece>& pieces, const std::vector<Extent>& extents,
                  const DeviceBuffer& buffer, const Interrupt& interrupt) {
    for (const PooledPiece& piece : pieces) pins_.pin(chunks_of(piece));
    const LoadPlan plan = plan_pool_copies(pieces, extents, pool_, buffer.memory->bytes());
    const Target target{
        .device = buffer.device.get(), .start = buffer.memory->address(), .bytes = buffer.memory->bytes()};
    return load(plan, {&target, 1}, LoadOptions{}, interrupt);
  }

 private:
  ChunkRange chunks_of(const PooledPiece& piece) const {
    const std::uint64_t first = piece.pool_offset / pool_.chunk_bytes();
    const std::uint64_t last = (piece.pool_offset + piece.bytes - 1) / pool_.chunk_bytes();
    return {first, last - first + 1};
  }

  ChunkPool& pool_;
  std::shared_ptr<Device> device_;
  PoolPins pins_;
};

// Unpinning takes as long as pinning does, and other threads of Python's go on meanwhile.
struct UnlockedDelete {
  void operator()(PoolDevice* device) const {
    const py::gil_scoped_release unlocked;
    delete device;
  }
};

std::vector<PooledPiece> pieces_of(const std::vector<PieceFields>& fields) {
  std::vector<PooledPiece> pieces;
  for (const auto& [file, offset, bytes, pool_offset] : fields) {
    if (bytes > 0) pieces.push_back({file, offset, bytes, pool_offset});
  }
  return pieces;
}

std::vector<Extent> extents_of(const std::vector<ExtentFields>& fields) {
  std::vector<Extent> extents;
  for (const auto& [file, offset, bytes, target, to, row_bytes, from_pitch, to_pitch] : fields) {
    extents.push_back({file, offset, bytes, target, to, row_bytes, from_pitch, to_pitch});
  }
  return extents;
}

py::dict copy(PoolDevice& device, const std::vector<PieceFields>& pieces,
              const std::vector<ExtentFields>& extents, const DeviceBuffer& buffer, const StopFlag& stop) {
  LoadReport report;
  {
    const py::gil_scoped_release unlocked;
    run_in_own_thread(Interruption(stop, false), [&](const Interrupt& interrupt) {
      report = device.copy(pieces_of(pieces), extents_of(extents), buffer, interrupt);
    });
  }
  return as_dict(report);
}

// The pieces' pool offsets are offsets in the region.
py::dict copy_region(const MappedRegion& region, const std::vector<PieceFields>& pieces,
                     const std::vector<ExtentFields>& extents, const DeviceBuffer& buffer,
                     const StopFlag& stop) {
  LoadReport report;
  {
    const py::gil_scoped_release unlocked;
    const std::uint64_t bytes = buffer.memory->bytes();
    const LoadPlan plan = plan_copies(pieces_of(pieces), extents_of(extents), region.bytes(), bytes);
    const Target target{.device = buffer.device.get(), .start = buffer.memory->address(), .bytes = bytes};
    run_in_own_thread(Interruption(stop, false), [&](const Interrupt& interrupt) {
      report = load(plan, {&target, 1}, LoadOptions{}, interrupt);
    });
  }
  return as_dict(report);
}

}  // namespace

void bind_pool_devices(py::module_& module) {
  py::class_<PoolDevice, std::unique_ptr<PoolDevice, UnlockedDelete>>(module, "PoolDevice")
      .def(py::init<Store&, std::shared_ptr<Device>>(), py::arg("store"), py::arg("device"),
           py::keep_alive<1, 2>())
      .def_property_readonly("device", &PoolDevice::device)
      .def_property_readonly("pinned_bytes", &PoolDevice::pinned_bytes)
      .def("copy", copy, py::arg("pieces"), py::arg("extents"), py::arg("buffer"), py::arg("stop"));
  module.def("copy_region", copy_region, py::arg("region"), py::arg("pieces"), py::arg("extents"),
             py::arg("buffer"), py::arg("stop"));
}

}  // namespace sllm

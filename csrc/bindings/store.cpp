#include "store/store.h"

#include <pybind11/native_enum.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <memory>
#include <mutex>
#include <tuple>
#include <utility>
#include <vector>

#include "base/error.h"
#include "bindings/bindings.h"
#include "bindings/load.h"
#include "load/own_thread.h"
#include "store/eviction.h"

namespace py = pybind11;

namespace sllm {
namespace {

using RangeFields = std::tuple<std::uint64_t, std::uint64_t, std::uint64_t>;
using PieceFields = std::tuple<std::uint64_t, std::uint64_t, std::uint64_t, std::uint64_t>;
using Unlocked = py::call_guard<py::gil_scoped_release>;

// A reservation that Python can let go of while another thread still uses it. Thread-safe.
class SharedReservation {
 public:
  explicit SharedReservation(std::shared_ptr<Reservation> reservation)
      : reservation_(std::move(reservation)) {}

  // Throws invalid after release().
  std::shared_ptr<Reservation> get() const {
    const std::lock_guard lock(mutex_);
    if (!reservation_) throw Error(ErrorCode::kInvalid, "the reservation was released");
    return reservation_;
  }

  void release() {
    std::shared_ptr<Reservation> last;
    const std::lock_guard lock(mutex_);
    last.swap(reservation_);
  }

 private:
  mutable std::mutex mutex_;
  std::shared_ptr<Reservation> reservation_;
};

std::vector<PieceFields> as_tuples(const std::vector<PooledPiece>& pieces) {
  std::vector<PieceFields> tuples;
  for (const PooledPiece& piece : pieces) {
    tuples.emplace_back(piece.file, piece.offset, piece.bytes, piece.pool_offset);
  }
  return tuples;
}

py::dict as_dict(const CheckpointStatus& status) {
  using namespace py::literals;
  return py::dict("number"_a = status.number, "bytes"_a = status.bytes,
                  "resident_bytes"_a = status.resident_bytes, "filling_bytes"_a = status.filling_bytes,
                  "leases"_a = status.leases, "uses"_a = status.uses, "is_retired"_a = status.is_retired);
}

py::dict as_dict(const LeaseStatus& status) {
  using namespace py::literals;
  return py::dict("number"_a = status.number, "checkpoint"_a = status.checkpoint, "bytes"_a = status.bytes,
                  "age_s"_a = status.age_s);
}

py::dict as_dict(const StoreStatus& status) {
  using namespace py::literals;
  return py::dict("pool_bytes"_a = status.pool_bytes, "chunk_bytes"_a = status.chunk_bytes,
                  "touched_bytes"_a = status.touched_bytes, "resident_bytes"_a = status.resident_bytes,
                  "filling_bytes"_a = status.filling_bytes, "leased_bytes"_a = status.leased_bytes,
                  "free_bytes"_a = status.free_bytes, "hit_bytes"_a = status.hit_bytes,
                  "miss_bytes"_a = status.miss_bytes, "filled_bytes"_a = status.filled_bytes,
                  "evicted_bytes"_a = status.evicted_bytes, "failed_fills"_a = status.failed_fills);
}

template <typename Status>
py::list as_dicts(const std::vector<Status>& statuses) {
  py::list dicts;
  for (const Status& status : statuses) dicts.append(as_dict(status));
  return dicts;
}

py::dict status_of(const Store& store) {
  StoreStatus status;
  {
    const py::gil_scoped_release unlocked;
    status = store.status();
  }
  py::dict dict = as_dict(status);
  dict["checkpoints"] = as_dicts(status.checkpoints);
  return dict;
}

py::list leases_of(const Store& store) {
  std::vector<LeaseStatus> leases;
  {
    const py::gil_scoped_release unlocked;
    leases = store.leases();
  }
  return as_dicts(leases);
}

CheckpointNumber add(Store& store,
                     const std::vector<std::pair<std::uint64_t, std::vector<std::uint32_t>>>& files,
                     double cost_s_per_byte) {
  std::vector<StoredFile> stored;
  for (const auto& [bytes, span_crcs] : files) stored.push_back({.bytes = bytes, .span_crcs = span_crcs});
  return store.add(std::move(stored), cost_s_per_byte);
}

std::unique_ptr<SharedReservation> reserve(Store& store, CheckpointNumber checkpoint,
                                           const std::vector<RangeFields>& fields) {
  std::vector<FileRange> ranges;
  for (const auto& [file, begin, end] : fields) ranges.push_back({file, begin, end});
  auto reservation = store.reserve(checkpoint, ranges);
  return reservation ? std::make_unique<SharedReservation>(std::move(reservation)) : nullptr;
}

py::dict fill(const SharedReservation& shared, const py::sequence& files, const LoadOptions& options,
              const StopFlag& stop) {
  std::vector<PlannedFile> planned;
  for (const py::handle file : files) planned.push_back(planned_file(file.cast<py::tuple>()));
  LoadReport report;
  {
    const py::gil_scoped_release unlocked;
    const auto reservation = shared.get();
    Interruption stopping(stop, false);
    run_in_own_thread(stopping, [&](const Interrupt& interrupt) {
      // The flag, too, so that a fill that is over before the other thread looks ends as well.
      report = reservation->fill(planned, options, [&] { stopping(), interrupt(); });
    });
  }
  return as_dict(report);
}

void write(const SharedReservation& shared, std::uint64_t file, std::uint64_t offset,
           const py::buffer& data) {
  const py::buffer_info view = data.request();
  const auto bytes = bytes_of(view);
  const py::gil_scoped_release unlocked;
  shared.get()->write(file, offset, bytes);
}

std::pair<LeaseNumber, int> lease(const SharedReservation& shared) {
  auto [number, descriptor] = shared.get()->lease();
  return {number, descriptor.release()};
}

void bind_eviction(py::module_& module) {
  py::native_enum<EvictionPolicy>(module, "Eviction", "enum.Enum")
      .value("GREEDY_DUAL", EvictionPolicy::kGreedyDual)
      .value("LRU", EvictionPolicy::kLru)
      .finalize();
}

// A property that may have to wait for the store's mutex.
template <typename Getter>
py::cpp_function unlocked(Getter getter) {
  return py::cpp_function(getter, Unlocked());
}

void bind_reservation(py::module_& module) {
  using Shared = const SharedReservation&;
  py::class_<SharedReservation>(module, "Reservation")
      .def_property_readonly("is_complete",
                             unlocked([](Shared shared) { return shared.get()->is_complete(); }))
      .def_property_readonly("nbytes", unlocked([](Shared shared) { return shared.get()->bytes(); }))
      .def_property_readonly("resident_bytes",
                             unlocked([](Shared shared) { return shared.get()->resident_bytes(); }))
      .def_property_readonly("hit_bytes", unlocked([](Shared shared) { return shared.get()->hit_bytes(); }))
      .def(
          "claim", [](Shared shared) { return as_tuples(shared.get()->claim()); }, Unlocked())
      .def(
          "abandon", [](Shared shared) { shared.get()->abandon(); }, Unlocked())
      .def("fill", fill, py::arg("files"), py::arg("options"), py::arg("stop"))
      .def("write", write, py::arg("file"), py::arg("offset"), py::arg("data"))
      .def(
          "pieces", [](Shared shared) { return as_tuples(shared.get()->pieces()); }, Unlocked())
      .def("lease", lease, Unlocked())
      .def("release", &SharedReservation::release, Unlocked());
}

void bind_stores(py::module_& module) {
  const Store::Options defaults;
  py::class_<Store>(module, "Store")
      .def(py::init([](std::uint64_t pool_bytes, std::uint64_t chunk_bytes, EvictionPolicy eviction) {
             return std::make_unique<Store>(Store::Options{pool_bytes, chunk_bytes, eviction});
           }),
           py::kw_only(), py::arg("pool_bytes"), py::arg("chunk_bytes") = defaults.chunk_bytes,
           py::arg("eviction") = defaults.eviction)
      .def_property_readonly("pool_bytes", [](Store& store) { return store.pool().memory().size(); })
      .def_property_readonly("chunk_bytes", [](Store& store) { return store.pool().chunk_bytes(); })
      .def_property_readonly("changes_fd", &Store::changes_fd)
      .def("add", add, py::arg("files"), py::arg("cost_s_per_byte"), Unlocked())
      .def("set_cost", &Store::set_cost, py::arg("checkpoint"), py::arg("cost_s_per_byte"), Unlocked())
      .def("retire", &Store::retire, py::arg("checkpoint"), Unlocked())
      .def("evict", &Store::evict, py::arg("checkpoint"), Unlocked())
      .def("span_crcs", &Store::span_crcs, py::arg("checkpoint"), py::arg("file"), Unlocked())
      .def("prove", &Store::prove, py::arg("checkpoint"), py::arg("file"), py::arg("span_crcs"), Unlocked())
      .def("reserve", reserve, py::arg("checkpoint"), py::arg("ranges"), Unlocked())
      .def("leases", leases_of)
      .def("status", status_of)
      .def("start_warming", &Store::start_warming, Unlocked());
}

}  // namespace

void bind_store(py::module_& module) {
  bind_eviction(module);
  bind_stores(module);
  bind_reservation(module);
}

}  // namespace sllm

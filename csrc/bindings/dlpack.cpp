#include "bindings/dlpack.h"

#include <utility>

namespace py = pybind11;

namespace sllm {
namespace {

// Declared here so that the build needs no header of it.
struct DlDevice {
  std::int32_t type;
  std::int32_t id;
};

struct DlDataType {
  std::uint8_t code, bits;
  std::uint16_t lanes;
};

struct DlTensor {
  void* data;
  DlDevice device;
  std::int32_t dimensions;
  DlDataType dtype;
  std::int64_t* shape;
  std::int64_t* strides;
  std::uint64_t byte_offset;
};

struct Legacy {
  static constexpr const char* kName = "dltensor";
  DlTensor tensor;
  void* context;
  void (*deleter)(Legacy* self);
};

struct Versioned {
  static constexpr const char* kName = "dltensor_versioned";
  std::uint32_t major = 1;
  std::uint32_t minor = 1;
  void* context;
  void (*deleter)(Versioned* self);
  std::uint64_t flags = 0;  // writable, and no copy was made
  DlTensor tensor;
};

template <typename Managed>
struct Export {
  Managed managed{};
  ExportedTensor tensor;

  static void release(Managed* managed) { delete static_cast<Export*>(managed->context); }

  // Runs when nobody has taken the tensor out of its capsule; a consumer renames the capsule.
  static void release_unconsumed(PyObject* capsule) {
    if (PyCapsule_IsValid(capsule, Managed::kName) == 0) return;
    release(static_cast<Managed*>(PyCapsule_GetPointer(capsule, Managed::kName)));
  }
};

template <typename Managed>
py::object make(ExportedTensor tensor) {
  auto owned = std::make_unique<Export<Managed>>();
  owned->tensor = std::move(tensor);
  ExportedTensor& kept = owned->tensor;
  owned->managed.tensor = {
      .data = reinterpret_cast<void*>(kept.address),
      .device = {kept.device_type, kept.device_id},
      .dimensions = static_cast<std::int32_t>(kept.shape.size()),
      .dtype = {kept.type_code, kept.type_bits, 1},
      .shape = kept.shape.data(),
      .strides = nullptr,
      .byte_offset = 0,
  };
  owned->managed.context = owned.get();
  owned->managed.deleter = Export<Managed>::release;
  PyObject* capsule = PyCapsule_New(&owned->managed, Managed::kName, Export<Managed>::release_unconsumed);
  if (capsule == nullptr) throw py::error_already_set();
  static_cast<void>(owned.release());
  return py::reinterpret_steal<py::object>(capsule);
}

}  // namespace

py::object make_capsule(ExportedTensor tensor, bool is_versioned) {
  return is_versioned ? make<Versioned>(std::move(tensor)) : make<Legacy>(std::move(tensor));
}

}  // namespace sllm

#include "bindings/memory.h"

#include <pybind11/stl.h>

#include <array>
#include <cstring>
#include <limits>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/size.h"
#include "bindings/bindings.h"
#include "bindings/dlpack.h"
#include "memory/mapped_region.h"

namespace py = pybind11;

namespace sllm {
namespace {

constexpr std::pair<std::uint8_t, std::uint8_t> kBytes{1, 8};  // unsigned, of 8 bits

// A HostBuffer or a MappedRegion.
template <typename Buffer>
ExportedTensor whole_of(const std::shared_ptr<Buffer>& buffer) {
  return {.owner = buffer,
          .address = reinterpret_cast<std::uint64_t>(buffer->bytes().data()),
          .bytes = buffer->bytes().size(),
          .shape = {}};
}

ExportedTensor whole_of(const std::shared_ptr<DeviceBuffer>& buffer) {
  return {.owner = buffer,
          .address = buffer->memory->address(),
          .bytes = buffer->memory->bytes(),
          .device_type = buffer->device->kind() == DeviceKind::kCuda ? kDlpackCuda : kDlpackCpu,
          .device_id = buffer->device->ordinal(),
          .shape = {}};
}

// The part of a buffer that a dense tensor of this type (code and bits) and shape takes from an offset on.
ExportedTensor part_of(const ExportedTensor& whole, std::uint64_t offset,
                       std::pair<std::uint8_t, std::uint8_t> type, std::vector<std::int64_t> shape) {
  std::uint64_t bits = type.second;
  for (const std::int64_t count : shape) {
    if (count < 0 || __builtin_mul_overflow(bits, static_cast<std::uint64_t>(count), &bits)) {
      throw Error(ErrorCode::kInvalid, "a shape that no memory holds");
    }
  }
  const std::uint64_t bytes = (bits + 7) / 8;
  if (checked_add(offset, bytes) > whole.bytes) {
    throw Error(ErrorCode::kInvalid, std::to_string(bytes) + " bytes at " + std::to_string(offset) +
                                         " leave a buffer of " + std::to_string(whole.bytes));
  }
  ExportedTensor part = whole;
  part.address += offset;
  part.bytes = bytes;
  std::tie(part.type_code, part.type_bits) = type;
  part.shape = std::move(shape);
  return part;
}

// A capsule for each offset and shape: uint8.
template <typename Buffer>
py::list export_bytes(const std::shared_ptr<Buffer>& buffer, const std::vector<std::uint64_t>& offsets,
                      std::vector<std::vector<std::int64_t>> shapes) {
  if (offsets.size() != shapes.size())
    throw Error(ErrorCode::kInvalid, "offsets and shapes differ in number");
  const ExportedTensor whole = whole_of(buffer);
  py::list capsules(offsets.size());
  for (std::size_t i = 0; i < offsets.size(); ++i) {
    capsules[i] = make_capsule(part_of(whole, offsets[i], kBytes, std::move(shapes[i])), false);
  }
  return capsules;
}

template <typename Buffer>
py::object export_tensor(const std::shared_ptr<Buffer>& buffer, std::uint64_t offset,
                         std::pair<std::uint8_t, std::uint8_t> type, std::vector<std::int64_t> shape,
                         bool is_versioned) {
  return make_capsule(part_of(whole_of(buffer), offset, type, std::move(shape)), is_versioned);
}

template <typename Buffer>
py::buffer_info view_of(Buffer& buffer) {
  return py::buffer_info(reinterpret_cast<std::uint8_t*>(buffer.bytes().data()),
                         static_cast<py::ssize_t>(buffer.bytes().size()));
}

std::shared_ptr<DeviceBuffer> allocate(const std::shared_ptr<Device>& device, std::uint64_t bytes,
                                       bool is_shareable) {
  const py::gil_scoped_release unlocked;
  const AllocationKind kind = is_shareable ? AllocationKind::kShareable : AllocationKind::kPlain;
  return std::make_shared<DeviceBuffer>(DeviceBuffer{device, device->allocate(bytes, kind)});
}

UniqueFd owned_descriptor(int fd) {
  if (fd < 0) throw Error(ErrorCode::kInvalid, std::to_string(fd) + " is no descriptor");
  return UniqueFd(fd);
}

std::shared_ptr<DeviceBuffer> import_fd(const std::shared_ptr<Device>& device, int fd, std::uint64_t bytes) {
  const py::gil_scoped_release unlocked;
  return std::make_shared<DeviceBuffer>(DeviceBuffer{device, device->import_fd(owned_descriptor(fd), bytes)});
}

int export_fd(const DeviceBuffer& buffer) {
  const py::gil_scoped_release unlocked;
  return buffer.memory->export_fd().release();
}

std::shared_ptr<DeviceBuffer> import_ipc(const std::shared_ptr<Device>& device, const py::bytes& exported,
                                         std::uint64_t bytes) {
  const std::string_view given = exported;
  IpcHandle handle{};
  if (given.size() != handle.size()) {
    throw Error(ErrorCode::kInvalid, std::to_string(given.size()) + " bytes are no handle of device memory");
  }
  std::memcpy(handle.data(), given.data(), handle.size());
  const py::gil_scoped_release unlocked;
  return std::make_shared<DeviceBuffer>(DeviceBuffer{device, device->import_ipc(handle, bytes)});
}

py::bytes export_ipc(const DeviceBuffer& buffer) {
  IpcHandle handle{};
  {
    const py::gil_scoped_release unlocked;
    handle = buffer.memory->export_ipc();
  }
  return py::bytes(reinterpret_cast<const char*>(handle.data()), handle.size());
}

// (destination, offset in the pool, bytes)
using PieceFields = std::array<std::uint64_t, 3>;

std::shared_ptr<MappedRegion> map_region(int pool, const std::vector<PieceFields>& fields,
                                         std::uint64_t bytes) {
  const py::gil_scoped_release unlocked;
  UniqueFd owned = owned_descriptor(pool);
  std::vector<RegionPiece> pieces;
  pieces.reserve(fields.size());
  for (const auto& [destination, pool_offset, count] : fields)
    pieces.push_back({destination, pool_offset, count});
  return MappedRegion::map(std::move(owned), pieces, bytes);
}

// A host buffer that a device's driver has pinned; released, in this order, with the object.
struct Pin {
  std::shared_ptr<HostBuffer> buffer;
  std::unique_ptr<HostRegistration> registration;
};

std::shared_ptr<Pin> pin(Device& device, const std::shared_ptr<HostBuffer>& buffer) {
  const py::gil_scoped_release unlocked;
  return std::make_shared<Pin>(Pin{buffer, device.register_host(buffer->bytes())});
}

void copy_to_host(const DeviceBuffer& buffer, std::uint64_t offset, const py::buffer& into) {
  const py::buffer_info view = into.request(true);
  const auto bytes = bytes_of(view);
  if (checked_add(offset, bytes.size()) > buffer.memory->bytes()) {
    throw Error(ErrorCode::kInvalid, std::to_string(bytes.size()) + " bytes at " + std::to_string(offset) +
                                         " leave a buffer of " + std::to_string(buffer.memory->bytes()));
  }
  const py::gil_scoped_release unlocked;
  const auto stream = buffer.device->make_stream();
  stream->copy_out({static_cast<std::byte*>(view.ptr), bytes.size()}, buffer.memory->address() + offset);
  stream->finish();
}

}  // namespace

Target target_of(const py::handle& memory) {
  if (py::isinstance<HostBuffer>(memory)) return Target::in_host(memory.cast<HostBuffer&>().bytes());
  if (py::isinstance<DeviceBuffer>(memory)) {
    const auto& buffer = memory.cast<const DeviceBuffer&>();
    return {
        .device = buffer.device.get(), .start = buffer.memory->address(), .bytes = buffer.memory->bytes()};
  }
  if (py::isinstance<AddressSpace>(memory)) {
    return {.device = memory.cast<const AddressSpace&>().device.get(),
            .bytes = std::numeric_limits<std::uint64_t>::max(),
            .is_exclusive = false};
  }
  throw Error(ErrorCode::kInvalid, "memory that no load can fill");
}

namespace {

void bind_devices(py::module_& module) {
  py::class_<Device, std::shared_ptr<Device>>(module, "Device")
      .def_property_readonly("name", &Device::name)
      .def_property_readonly("model", &Device::model)
      .def_property_readonly("ordinal", &Device::ordinal)
      .def_property_readonly("uuid", [](const Device& device) { return uuid_text(device.uuid()); })
      .def_property_readonly("free_bytes", [](const Device& device) { return device.memory().free_bytes; })
      .def_property_readonly("total_bytes", [](const Device& device) { return device.memory().total_bytes; })
      .def("allocate", allocate, py::arg("nbytes"), py::arg("is_shareable") = false)
      .def("import_fd", import_fd, py::arg("fd"), py::arg("nbytes"))
      .def("import_ipc", import_ipc, py::arg("handle"), py::arg("nbytes"))
      .def("pin", pin, py::arg("buffer"));
  py::class_<Pin, std::shared_ptr<Pin>>(module, "Pin");
  module.def("find_device", find_device, py::arg("name"), py::call_guard<py::gil_scoped_release>());
}

void bind_regions(py::module_& module) {
  py::class_<MappedRegion, std::shared_ptr<MappedRegion>>(module, "MappedRegion", py::buffer_protocol())
      .def(py::init(&map_region), py::arg("pool"), py::arg("pieces"), py::arg("nbytes"))
      .def_buffer(view_of<MappedRegion>)
      .def_property_readonly("mapped_bytes", &MappedRegion::mapped_bytes)
      .def("__len__", [](const MappedRegion& region) { return region.bytes().size(); })
      .def("export_bytes", export_bytes<MappedRegion>, py::arg("offsets"), py::arg("shapes"))
      .def("export_tensor", export_tensor<MappedRegion>, py::arg("offset"), py::arg("element"),
           py::arg("shape"), py::arg("is_versioned"));
}

}  // namespace

void bind_memory(py::module_& module) {
  py::class_<HostBuffer, std::shared_ptr<HostBuffer>>(
      module, "HostBuffer", py::buffer_protocol(),
      "Page-aligned host memory of `nbytes` bytes that loads can fill again and again (memory= of "
      "load_tensors).\n\n"
      "Tensors made of it keep it alive, and change when it is filled again. Raises OutOfMemoryError.")
      .def(py::init(&HostBuffer::allocate), py::arg("nbytes"))
      .def_buffer(view_of<HostBuffer>)
      .def("__len__", [](const HostBuffer& buffer) { return buffer.bytes().size(); })
      .def("export_bytes", export_bytes<HostBuffer>, py::arg("offsets"), py::arg("shapes"))
      .def("export_tensor", export_tensor<HostBuffer>, py::arg("offset"), py::arg("element"),
           py::arg("shape"), py::arg("is_versioned"));
  bind_regions(module);
  bind_devices(module);
  py::class_<DeviceBuffer, std::shared_ptr<DeviceBuffer>>(module, "DeviceBuffer")
      .def("__len__", [](const DeviceBuffer& buffer) { return buffer.memory->bytes(); })
      .def_property_readonly("device", [](const DeviceBuffer& buffer) { return buffer.device; })
      .def_property_readonly("address", [](const DeviceBuffer& buffer) { return buffer.memory->address(); })
      .def("export_bytes", export_bytes<DeviceBuffer>, py::arg("offsets"), py::arg("shapes"))
      .def("export_tensor", export_tensor<DeviceBuffer>, py::arg("offset"), py::arg("element"),
           py::arg("shape"), py::arg("is_versioned"))
      .def("export_fd", export_fd)
      .def("export_ipc", export_ipc)
      .def("copy_to_host", copy_to_host, py::arg("offset"), py::arg("into"));
  py::class_<AddressSpace>(module, "AddressSpace")
      .def(py::init([](std::shared_ptr<Device> device) { return AddressSpace{std::move(device)}; }),
           py::arg("device") = nullptr);
}

}  // namespace sllm

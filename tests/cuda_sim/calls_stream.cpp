// Streams, events and copies.
#include <string>

#include "cuda_sim/call.h"

using cuda_sim::Address;
using cuda_sim::Call;
using cuda_sim::ContextCall;
using cuda_sim::Copy;
using cuda_sim::Event;
using cuda_sim::Mark;
using cuda_sim::Region;
using cuda_sim::Result;
using cuda_sim::Stream;

namespace {

// Handles are numbers that are used once, so that one that was destroyed is never somebody else's.
std::uint64_t to_number(const void* handle) { return reinterpret_cast<std::uint64_t>(handle); }
template <typename Handle>
Handle to_handle(std::uint64_t number) {
  return reinterpret_cast<Handle>(number);
}

// body(Stream&) for a stream of the current context.
template <typename Body>
Result with_stream(ContextCall& call, sllm::cuda::Stream handle, Body&& body) {
  const auto found = call.context.streams.find(to_number(handle));
  if (found == call.context.streams.end()) {
    return call.refuse(Result::kInvalidHandle, "no such stream in the current context, or it is destroyed");
  }
  return body(*found->second);
}

template <typename Body>
Result with_event(Call& call, sllm::cuda::Event handle, Body&& body) {
  const auto found = call.simulator.events.find(to_number(handle));
  if (found == call.simulator.events.end()) {
    return call.refuse(Result::kInvalidHandle, "no such event, or it is destroyed");
  }
  return body(found->second);
}

// Not known to be over until somebody looks: the mark's memory order is what makes it so.
Result look_at(Call& call, const std::shared_ptr<Mark>& mark) {
  if (mark != nullptr && !mark->is_done()) return Result::kNotReady;
  if (mark != nullptr) call.simulator.note_done(*mark);
  return Result::kSuccess;
}

// Where device memory really is; nothing, written down, where the device could not reach it.
std::byte* resolve(ContextCall& call, Address address, std::uint64_t bytes) {
  const Region* region = find(call.simulator.regions, address, bytes);
  if (region == nullptr) {
    call.refuse(Result::kInvalidValue, std::to_string(bytes) + " bytes that are not all device memory");
    return nullptr;
  }
  if (!region->is_accessible || region->backing->device() != call.context.device) {
    call.refuse(Result::kInvalidValue, "device memory that the current context may not touch");
    return nullptr;
  }
  return region->at(address);
}

bool is_registered(ContextCall& call, const void* memory, std::uint64_t bytes) {
  const auto& registrations = call.simulator.registrations;
  const auto* start = static_cast<const std::byte*>(memory);
  const auto behind = registrations.upper_bound(start);
  if (behind == registrations.begin()) return false;
  const auto& [first, registration] = *std::prev(behind);
  return start + bytes <= first + registration.bytes &&
         (registration.is_portable || registration.context == &call.context);
}

struct HostSide {
  const void* memory;
  std::uint64_t bytes;
};

// Host memory that the driver does not know is copied before the call returns.
Result submit(ContextCall& call, Stream& stream, Copy copy, const HostSide& host) {
  copy.error = call.simulator.fault_of_copy();
  const bool is_pageable = host.memory != nullptr && !is_registered(call, host.memory, host.bytes);
  stream.push_copy(copy);
  if (!is_pageable) return Result::kSuccess;
  ++call.simulator.counts.pageable_copies;
  cuda_sim::wait_for(call, stream.push_mark());
  return call.context.error();
}

Copy one_row(std::byte* to, const std::byte* from, std::size_t bytes, cuda_sim::Link& link) {
  return Copy{.to = to, .from = from, .row_bytes = bytes, .link = &link};
}

// As enter_context(), with a stream of that context.
template <typename Body>
Result enter_stream(const char* function, sllm::cuda::Stream handle, Body&& body) {
  return cuda_sim::enter_context(function, [&](ContextCall& call) {
    return with_stream(call, handle, [&](Stream& stream) { return body(call, stream); });
  });
}

std::uint64_t extent_of(std::size_t pitch, const sllm::cuda::Copy2d& copy) {
  return (copy.rows - 1) * pitch + copy.row_bytes;
}

bool is_plain_copy_in(const sllm::cuda::Copy2d& copy) {
  return copy.from_type == sllm::cuda::kMemoryIsHost && copy.to_type == sllm::cuda::kMemoryIsDevice &&
         copy.from_x == 0 && copy.from_y == 0 && copy.to_x == 0 && copy.to_y == 0 && copy.rows > 0 &&
         copy.row_bytes > 0 && (copy.rows == 1 || copy.row_bytes <= copy.from_pitch) &&
         (copy.rows == 1 || copy.row_bytes <= copy.to_pitch);
}

}  // namespace

Result cuStreamCreate(sllm::cuda::Stream* handle, unsigned) {
  return cuda_sim::enter_context("cuStreamCreate", [&](ContextCall& call) {
    const std::uint64_t number = ++call.simulator.last_number;
    call.context.streams[number] = std::make_unique<Stream>(number, call.context.state);
    *handle = to_handle<sllm::cuda::Stream>(number);
    return Result::kSuccess;
  });
}

Result cuStreamDestroy_v2(sllm::cuda::Stream handle) {
  return cuda_sim::enter_context_to_end("cuStreamDestroy_v2", [&](ContextCall& call) {
    return with_stream(call, handle, [&](Stream& stream) {
      if (stream.is_copying()) call.refuse(Result::kSuccess, "copies that nobody waited for");
      call.context.streams.erase(stream.number());
      return Result::kSuccess;
    });
  });
}

Result cuStreamSynchronize(sllm::cuda::Stream handle) {
  return cuda_sim::enter_context_to_end("cuStreamSynchronize", [&](ContextCall& call) {
    return with_stream(call, handle, [&](Stream& stream) {
      cuda_sim::wait_for(call, stream.push_mark());
      return Result::kSuccess;
    });
  });
}

Result cuStreamQuery(sllm::cuda::Stream handle) {
  return enter_stream("cuStreamQuery", handle,
                      [&](ContextCall& call, Stream& stream) { return look_at(call, stream.last_mark()); });
}

Result cuStreamWaitEvent(sllm::cuda::Stream handle, sllm::cuda::Event event_handle, unsigned flags) {
  return enter_stream("cuStreamWaitEvent", handle, [&](ContextCall& call, Stream& stream) {
    if (flags != 0) return call.refuse(Result::kInvalidValue, "flags");
    return with_event(call, event_handle, [&](Event& event) {
      if (event.mark != nullptr) stream.push_wait(event.mark);
      return Result::kSuccess;
    });
  });
}

Result cuEventCreate(sllm::cuda::Event* handle, unsigned) {
  return cuda_sim::enter_context("cuEventCreate", [&](ContextCall& call) {
    const std::uint64_t number = ++call.simulator.last_number;
    call.simulator.events[number] = Event{&call.context, nullptr};
    *handle = to_handle<sllm::cuda::Event>(number);
    return Result::kSuccess;
  });
}

Result cuEventDestroy_v2(sllm::cuda::Event handle) {
  return cuda_sim::enter_context_to_end("cuEventDestroy_v2", [&](ContextCall& call) {
    const bool was_there = call.simulator.events.erase(to_number(handle)) > 0;
    return was_there ? Result::kSuccess : call.refuse(Result::kInvalidHandle, "no such event");
  });
}

Result cuEventRecord(sllm::cuda::Event handle, sllm::cuda::Stream stream_handle) {
  return enter_stream("cuEventRecord", stream_handle, [&](ContextCall& call, Stream& stream) {
    return with_event(call, handle, [&](Event& event) {
      if (event.context != &call.context) {
        return call.refuse(Result::kInvalidHandle, "an event of another context");
      }
      event.mark = stream.push_mark();
      return Result::kSuccess;
    });
  });
}

Result cuEventQuery(sllm::cuda::Event handle) {
  return cuda_sim::enter_context("cuEventQuery", [&](ContextCall& call) {
    return with_event(call, handle, [&](Event& event) {
      const Result result = look_at(call, event.mark);
      const Result error = call.context.error();
      return error != Result::kSuccess ? error : result;
    });
  });
}

Result cuEventSynchronize(sllm::cuda::Event handle) {
  return cuda_sim::enter_context_to_end("cuEventSynchronize", [&](ContextCall& call) {
    return with_event(call, handle, [&](Event& event) {
      if (const auto mark = event.mark) cuda_sim::wait_for(call, mark);
      return Result::kSuccess;
    });
  });
}

Result cuMemcpyHtoDAsync_v2(Address to, const void* from, std::size_t bytes, sllm::cuda::Stream handle) {
  return enter_stream("cuMemcpyHtoDAsync_v2", handle, [&](ContextCall& call, Stream& stream) {
    std::byte* into = resolve(call, to, bytes);
    if (into == nullptr) return Result::kInvalidValue;
    return submit(call, stream, one_row(into, static_cast<const std::byte*>(from), bytes, call.device().h2d),
                  {from, bytes});
  });
}

Result cuMemcpyDtoHAsync_v2(void* to, Address from, std::size_t bytes, sllm::cuda::Stream handle) {
  return enter_stream("cuMemcpyDtoHAsync_v2", handle, [&](ContextCall& call, Stream& stream) {
    const std::byte* out_of = resolve(call, from, bytes);
    if (out_of == nullptr) return Result::kInvalidValue;
    return submit(call, stream, one_row(static_cast<std::byte*>(to), out_of, bytes, call.device().d2h),
                  {to, bytes});
  });
}

Result cuMemcpyDtoDAsync_v2(Address to, Address from, std::size_t bytes, sllm::cuda::Stream handle) {
  return enter_stream("cuMemcpyDtoDAsync_v2", handle, [&](ContextCall& call, Stream& stream) {
    std::byte* into = resolve(call, to, bytes);
    const std::byte* out_of = resolve(call, from, bytes);
    if (into == nullptr || out_of == nullptr) return Result::kInvalidValue;
    return submit(call, stream, one_row(into, out_of, bytes, call.device().d2d), {nullptr, 0});
  });
}

Result cuMemcpy2DAsync_v2(const sllm::cuda::Copy2d* copy, sllm::cuda::Stream handle) {
  return enter_stream("cuMemcpy2DAsync_v2", handle, [&](ContextCall& call, Stream& stream) {
    if (!is_plain_copy_in(*copy)) {
      return call.refuse(Result::kInvalidValue,
                         "rows that overlap, or another copy than from host to device");
    }
    std::byte* into = resolve(call, copy->to_device, extent_of(copy->to_pitch, *copy));
    if (into == nullptr) return Result::kInvalidValue;
    Copy rows{.to = into,
              .to_pitch = copy->to_pitch,
              .from = static_cast<const std::byte*>(copy->from_host),
              .from_pitch = copy->from_pitch,
              .row_bytes = copy->row_bytes,
              .rows = copy->rows,
              .link = &call.device().h2d};
    return submit(call, stream, rows, {copy->from_host, extent_of(copy->from_pitch, *copy)});
  });
}

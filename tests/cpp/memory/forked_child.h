#pragma once

#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <functional>

#include "base/unique_handle.h"

namespace sllm::testing {

// A forked child of a process with one thread, in step with its parent: each says a byte when the other may
// go on. It inherits descriptors and mappings, makes system calls, and ends without cleaning up. Killed at
// the end, where it has not ended by then.
class ForkedChild {
 public:
  // The child's end of the conversation. Every wait ends when the parent goes.
  class Conversation {
   public:
    explicit Conversation(int socket) : socket_(socket) {}
    void say() const {
      const char byte = 0;
      static_cast<void>(::write(socket_, &byte, 1));
    }
    void await() const {
      char byte = 0;
      if (::read(socket_, &byte, 1) != 1) ::_exit(99);
    }

   private:
    int socket_;
  };

  // What `work` returns is the child's exit status.
  explicit ForkedChild(const std::function<int(const Conversation&)>& work) {
    std::array<int, 2> sockets{};
    EXPECT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets.data()), 0);
    ours_ = UniqueFd(sockets[0]);
    UniqueFd theirs(sockets[1]);
    child_ = ::fork();
    if (child_ == 0) {
      ours_ = UniqueFd();
      ::alarm(60);  // no test waits longer for it
      ::_exit(work(Conversation(theirs.get())));
    }
    EXPECT_GT(child_, 0);
  }
  ForkedChild(const ForkedChild&) = delete;
  ForkedChild& operator=(const ForkedChild&) = delete;
  ~ForkedChild() { kill(); }

  void say() const { Conversation(ours_.get()).say(); }
  // Until the child says something.
  void await() const {
    struct pollfd readable{.fd = ours_.get(), .events = POLLIN, .revents = 0};
    ASSERT_EQ(::poll(&readable, 1, 30'000), 1);
    char byte = 0;
    ASSERT_EQ(::read(ours_.get(), &byte, 1), 1) << "the child has ended";
  }
  void kill() {
    if (child_ > 0) ::kill(child_, SIGKILL);
    wait();
  }
  // Its exit status, or -1 where a signal ended it.
  int wait() {
    int status = 0;
    if (child_ <= 0 || ::waitpid(child_, &status, 0) != child_) return -1;
    child_ = -1;
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  }

 private:
  UniqueFd ours_;
  pid_t child_ = -1;
};

}  // namespace sllm::testing

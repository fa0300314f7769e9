// pread that fails on request, preloaded in front of libc's: FAULTY_PREAD="KIND:N" does it to the N-th read of
// 64 KiB and more, counted from 0
// or from faulty_pread_reset(). "short" delivers one block, "eintr" and "eio" fail, "stall" opens the FIFO
// $FAULTY_PREAD_STALLED (which its reader sees) and then waits for a writer of the FIFO $FAULTY_PREAD_GO.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static atomic_int reads;

void faulty_pread_reset(void) { atomic_store(&reads, 0); }

static void stall(void) {
  close(open(getenv("FAULTY_PREAD_STALLED"), O_WRONLY | O_CLOEXEC));
  close(open(getenv("FAULTY_PREAD_GO"), O_RDONLY | O_CLOEXEC));
}

ssize_t pread(int fd, void *into, size_t count, off_t offset) {
  const char *fault = getenv("FAULTY_PREAD");
  const char *colon = fault ? strchr(fault, ':') : NULL;
  if (colon && count >= 65536 && atomic_fetch_add(&reads, 1) == atoi(colon + 1)) {
    if (!strncmp(fault, "short", 5)) count = 4096;
    if (!strncmp(fault, "stall", 5)) stall();
    if (!strncmp(fault, "eintr", 5) || !strncmp(fault, "eio", 3)) {
      errno = strncmp(fault, "eintr", 5) ? EIO : EINTR;
      return -1;
    }
  }
  return syscall(SYS_pread64, fd, into, count, offset);
}

ssize_t pread64(int fd, void *into, size_t count, off_t offset) { return pread(fd, into, count, offset); }

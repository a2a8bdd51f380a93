/* A machine that goes wrong in mid-run, loaded with LD_PRELOAD. While the file $FAULTY_ON exists
   - the clock is $FAULTY_SECONDS ahead of the true one,
   - what would write below a path that holds $FAULTY_PATH fails with $FAULTY_ERRNO, or reads if $FAULTY_READS is set. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define REAL(type, name, ...) \
  static type (*real)(__VA_ARGS__); \
  if (!real) real = (type (*)(__VA_ARGS__))dlsym(RTLD_NEXT, #name)

static int on(void) { const char *file = getenv("FAULTY_ON"); return file && access(file, F_OK) == 0; }

static int fails(const char *path, int reading) {
  const char *part = getenv("FAULTY_PATH"), *number = getenv("FAULTY_ERRNO");
  if (!part || !number || !on() || !strstr(path, part) || reading != (getenv("FAULTY_READS") != NULL)) return 0;
  errno = atoi(number);
  return 1;
}

static int open_fails(int file, int reading) {
  char link[64], path[4096];
  snprintf(link, sizeof link, "/proc/self/fd/%d", file);
  ssize_t length = readlink(link, path, sizeof path - 1);
  if (length < 0) return 0;
  path[length] = 0;
  return fails(path, reading);
}

static long ahead(void) { const char *seconds = getenv("FAULTY_SECONDS"); return seconds && on() ? atol(seconds) : 0; }

int clock_gettime(clockid_t id, struct timespec *time) {
  REAL(int, clock_gettime, clockid_t, struct timespec *);
  int result = real(id, time);
  if (id == CLOCK_REALTIME) time->tv_sec += ahead();
  return result;
}

time_t time(time_t *to) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  if (to) *to = now.tv_sec;
  return now.tv_sec;
}

int gettimeofday(struct timeval *time, void *zone) {
  REAL(int, gettimeofday, struct timeval *, void *);
  int result = real(time, zone);
  time->tv_sec += ahead();
  return result;
}

ssize_t write(int file, const void *data, size_t size) {
  REAL(ssize_t, write, int, const void *, size_t);
  return open_fails(file, 0) ? -1 : real(file, data, size);
}

ssize_t read(int file, void *data, size_t size) {
  REAL(ssize_t, read, int, void *, size_t);
  return open_fails(file, 1) ? -1 : real(file, data, size);
}

int fsync(int file) {
  REAL(int, fsync, int);
  return open_fails(file, 0) ? -1 : real(file);
}

#define OPEN(name) \
  int name(const char *path, int flags, ...) { \
    REAL(int, name, const char *, int, ...); \
    va_list rest; \
    va_start(rest, flags); \
    mode_t mode = va_arg(rest, mode_t); \
    va_end(rest); \
    return (flags & (O_WRONLY | O_RDWR | O_CREAT)) && fails(path, 0) ? -1 : real(path, flags, mode); \
  }
OPEN(open)
OPEN(open64)

#define CHANGE(name) \
  int name(const char *from, const char *to) { \
    REAL(int, name, const char *, const char *); \
    return fails(to, 0) ? -1 : real(from, to); \
  }
CHANGE(rename)
CHANGE(symlink)

int mkdir(const char *path, mode_t mode) {
  REAL(int, mkdir, const char *, mode_t);
  return fails(path, 0) ? -1 : real(path, mode);
}

int unlink(const char *path) {
  REAL(int, unlink, const char *);
  return fails(path, 0) ? -1 : real(path);
}

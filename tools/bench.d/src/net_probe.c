/* Small packets and round trips between two machines, for tools/bench net. A server:
 *
 *   net_probe serve PORT
 *
 * and clients, which print one line each:
 *
 *   net_probe rr-tcp|rr-udp HOST PORT SECONDS       one byte to and fro: ROUND-TRIPS NANOSECONDS
 *   net_probe send|receive HOST PORT SECONDS SIZE   datagrams one way: DATAGRAMS NANOSECONDS
 *
 * A sender of datagrams has at most WINDOW of them on their way, which the receiver acknowledges by the batch: what is
 * counted has arrived, and nobody spends the time of a CPU that both need on what is thrown away. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { WINDOW = 256, BATCH = 32, MAX_SIZE = 1472, PATIENCE_MS = 20 };

/* What a client asks for; in network byte order. */
struct request {
  uint32_t kind, seconds, size;
};
enum { RR_TCP = 1, RR_UDP, SEND, RECEIVE };

static void die(const char *what) {
  fprintf(stderr, "net_probe: %s: %s\n", what, strerror(errno));
  exit(1);
}

static uint64_t now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

static void write_all(int fd, const void *data, size_t size) {
  if (send(fd, data, size, MSG_NOSIGNAL) != (ssize_t)size) die("send");
}

static void read_all(int fd, void *data, size_t size) {
  if (recv(fd, data, size, MSG_WAITALL) != (ssize_t)size) die("receive");
}

static void patience(int fd) {
  struct timeval t = {.tv_usec = PATIENCE_MS * 1000};
  if (setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &t, sizeof t)) die("SO_RCVTIMEO");
}

/* Room for all that may be on its way: a short frame takes kilobytes of a socket's buffer on some cards, and what does not
 * fit is thrown away. */
static void make_room(int fd) {
  int bytes = WINDOW * 16384;
  if (setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &bytes, sizeof bytes)) die("SO_RCVBUFFORCE");
}

/* Whether the other end has closed `control`, or said something. */
static int told(int control) {
  struct pollfd p = {.fd = control, .events = POLLIN};
  return poll(&p, 1, 0) > 0;
}

static uint64_t send_datagrams(int fd, uint32_t seconds, uint32_t size) {
  static char bytes[BATCH][MAX_SIZE];
  struct mmsghdr messages[BATCH] = {0};
  struct iovec pieces[BATCH];
  for (int i = 0; i < BATCH; i++) {
    pieces[i] = (struct iovec){bytes[i], size};
    messages[i].msg_hdr = (struct msghdr){.msg_iov = &pieces[i], .msg_iovlen = 1};
  }
  uint32_t sent = 0, seen = 0;
  uint64_t end = now_ns() + seconds * 1000000000ull;
  while (now_ns() < end) {
    while (sent - seen <= WINDOW - BATCH) {
      for (int i = 0; i < BATCH; i++) {
        uint32_t number = htonl(sent + (uint32_t)i + 1);
        memcpy(bytes[i], &number, sizeof number);
      }
      int n = sendmmsg(fd, messages, BATCH, 0);
      if (n < 0 && errno != EAGAIN && errno != ENOBUFS && errno != ECONNREFUSED) die("sendmmsg");
      if (n > 0) sent += (uint32_t)n;
    }
    uint32_t number;
    if (recv(fd, &number, sizeof number, 0) == sizeof number)
      seen = ntohl(number);
    else
      seen = sent; /* nothing is heard: what was on its way is lost */
  }
  return sent;
}

/* Until `seconds` are over, or, with 0, `control` says something. */
static uint64_t receive_datagrams(int fd, int control, uint32_t seconds) {
  static char bytes[BATCH][MAX_SIZE];
  struct mmsghdr messages[BATCH] = {0};
  struct iovec pieces[BATCH];
  for (int i = 0; i < BATCH; i++) {
    pieces[i] = (struct iovec){bytes[i], MAX_SIZE};
    messages[i].msg_hdr = (struct msghdr){.msg_iov = &pieces[i], .msg_iovlen = 1};
  }
  uint64_t count = 0, end = now_ns() + seconds * 1000000000ull;
  uint32_t unsaid = 0;
  for (;;) {
    int n = recvmmsg(fd, messages, BATCH, MSG_WAITFORONE, NULL);
    if (n > 0) {
      count += (uint32_t)n;
      unsaid += (uint32_t)n;
      if (unsaid >= WINDOW / 4) {
        send(fd, bytes[n - 1], sizeof(uint32_t), 0); /* the last one's number */
        unsaid = 0;
      }
    }
    if (seconds ? now_ns() >= end : (n <= 0 && told(control))) return count;
  }
}

static void serve_datagrams(int control, const struct request *r) {
  struct sockaddr_storage address;
  socklen_t length = sizeof address;
  if (getsockname(control, (struct sockaddr *)&address, &length)) die("getsockname");
  int fd = socket(address.ss_family, SOCK_DGRAM, 0);
  ((struct sockaddr_in *)&address)->sin_port = 0;
  if (fd < 0 || bind(fd, (struct sockaddr *)&address, length)) die("bind");
  make_room(fd);
  getsockname(fd, (struct sockaddr *)&address, &length);
  write_all(control, &((struct sockaddr_in *)&address)->sin_port, sizeof(uint16_t));

  char byte;
  struct sockaddr_in client;
  length = sizeof client;
  if (recvfrom(fd, &byte, 1, MSG_PEEK, (struct sockaddr *)&client, &length) < 0 ||
      connect(fd, (struct sockaddr *)&client, length))
    die("no datagram came");
  patience(fd);
  if (ntohl(r->kind) == RR_UDP) {
    for (;;) {
      ssize_t n = recv(fd, &byte, 1, 0);
      if (n > 0)
        send(fd, &byte, 1, 0);
      else if (told(control))
        return;
    }
  }
  recv(fd, &byte, 1, 0); /* the greeting */
  if (ntohl(r->kind) == RECEIVE) {
    send_datagrams(fd, ntohl(r->seconds), ntohl(r->size));
    return;
  }
  uint64_t count = receive_datagrams(fd, control, 0);
  write_all(control, &count, sizeof count);
}

static void serve(const char *port) {
  int listener = socket(AF_INET, SOCK_STREAM, 0), on = 1;
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(port))};
  setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  if (bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 8)) die("listen");
  signal(SIGCHLD, SIG_IGN);
  for (;;) {
    int control = accept(listener, NULL, NULL);
    if (control < 0) continue;
    if (fork() == 0) {
      struct request r;
      setsockopt(control, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
      read_all(control, &r, sizeof r);
      if (ntohl(r.kind) == RR_TCP) {
        char byte;
        while (recv(control, &byte, 1, 0) == 1) write_all(control, &byte, 1);
      } else {
        serve_datagrams(control, &r);
      }
      exit(0);
    }
    close(control);
  }
}

static uint64_t round_trips(int fd, uint32_t seconds) {
  uint64_t count = 0, end = now_ns() + seconds * 1000000000ull;
  char byte = 'x';
  while (now_ns() < end) {
    if (send(fd, &byte, 1, 0) != 1) die("send");
    if (recv(fd, &byte, 1, 0) == 1) count++;
  }
  return count;
}

int main(int argc, char **argv) {
  if (argc == 3 && !strcmp(argv[1], "serve")) serve(argv[2]);
  if (argc < 5) return fprintf(stderr, "net_probe: see its source\n"), 2;
  static const char *const kinds[] = {"", "rr-tcp", "rr-udp", "send", "receive"};
  uint32_t kind = 4;
  while (kind > 0 && strcmp(argv[1], kinds[kind])) kind--;
  uint32_t seconds = (uint32_t)atoi(argv[4]), size = argc > 5 ? (uint32_t)atoi(argv[5]) : 0;
  if (kind == 0 || (kind >= SEND && (size < sizeof(uint32_t) || size > MAX_SIZE)))
    return fprintf(stderr, "net_probe: no such job\n"), 2;

  struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(argv[3]))};
  if (inet_pton(AF_INET, argv[2], &address.sin_addr) != 1) return 2;
  int control = socket(AF_INET, SOCK_STREAM, 0), on = 1;
  setsockopt(control, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  if (connect(control, (struct sockaddr *)&address, sizeof address)) die("connect");
  struct request r = {htonl(kind), htonl(seconds), htonl(size)};
  write_all(control, &r, sizeof r);

  uint64_t count, began;
  if (kind == RR_TCP) {
    began = now_ns();
    count = round_trips(control, seconds);
  } else {
    read_all(control, &address.sin_port, sizeof address.sin_port);
    int fd = socket(AF_INET, SOCK_DGRAM, 0);
    if (connect(fd, (struct sockaddr *)&address, sizeof address)) die("connect");
    make_room(fd);
    patience(fd);
    if (kind != RR_UDP) send(fd, "!", 1, 0);
    began = now_ns();
    if (kind == RR_UDP)
      count = round_trips(fd, seconds);
    else if (kind == SEND)
      count = send_datagrams(fd, seconds, size);
    else
      count = receive_datagrams(fd, control, seconds);
  }
  uint64_t took = now_ns() - began;
  if (kind == SEND) {
    shutdown(control, SHUT_WR);
    read_all(control, &count, sizeof count);
  }
  printf("%llu %llu\n", (unsigned long long)count, (unsigned long long)took);
  return 0;
}

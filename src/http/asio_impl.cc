// Asio's own code, here and nowhere else.
// clang-format off
#include "http/asio.h"
#include <boost/asio/impl/src.hpp>
#include <boost/asio/ssl/impl/src.hpp>
// clang-format on

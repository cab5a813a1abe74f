# Rate limiting
allow {
    count(recent_messages[input.sender.nhi]) < 1000
}

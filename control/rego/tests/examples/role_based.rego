# Role-based messaging
allow {
    input.sender.roles[_] == "coordinator"
    input.action == "send_message"
}
